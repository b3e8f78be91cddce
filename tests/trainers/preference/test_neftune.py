"""NEFTune's noise in training: that of each sequence's own length, however rows are cut."""

import pytest
import torch
from torch.nn.functional import embedding
from transformers import TrainerCallback

from tests.conftest import WORDS
from tests.trainers.helpers import arguments, build
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

KINDS = {
    "pairs": (PairedPreferenceTrainer, PairedPreferenceConfig),
    "labelled": (UnpairedPreferenceTrainer, UnpairedPreferenceConfig),
}


class Noise(TrainerCallback):
    """Differences between embeddings and their weights, by whether the model trains."""

    def __init__(self):
        self.found = {True: [], False: []}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        def add(module, inputs, output):
            plain = embedding(inputs[0], module.weight)
            self.found[module.training].append((output - plain).detach().flatten())

        model.get_input_embeddings().register_forward_hook(add)


def rows_of_equal_lengths(count):
    """Pairs whose sequences have ten tokens each: prompt 5, completion 4 and the end token."""
    words = [WORDS[i:] + WORDS[:i] for i in range(count)]
    return [
        {"prompt": " ".join(w[:5]), "chosen": " " + " ".join(w[5:9]), "rejected": " " + " ".join(w[9:13])}
        for w in words
    ]


@pytest.mark.parametrize("settings", [{"row_tokens": 1000}, {"row_tokens": 20}, {"packing": False}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_that_of_a_sequence(kind, settings, tiny_model, tmp_path):
    cls, config_class = KINDS[kind]
    config = config_class(**arguments(tmp_path, neftune_noise_alpha=5, max_steps=1, reference_cache=False, **settings))
    trainer = build(cls, config, tiny_model, examples=rows_of_equal_lengths(8))
    callback = Noise()
    trainer.add_callback(callback)
    trainer.train()
    noise = torch.cat(callback.found[True])
    assert noise.std().item() == pytest.approx(5 / (3 * 10 * 64) ** 0.5, rel=0.03)
    assert not torch.cat(callback.found[False]).any()  # the reference, and the pass of KTO's baseline
    assert trainer.neftune_noise_alpha == 5  # as it was given
