"""Preference data with images trains as in TRL: packed rows of pairs, padded rows, labelled completions."""

import numpy as np
import pytest
import torch
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tests.trainers.helpers import arguments, relative_difference
from tests.trainers.preference.images import image_pairs, labelled_images, train
from trl_ext.batching import images
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)


@pytest.mark.parametrize(("theirs", "ours"), [("sigmoid", "dpo"), ("ipo", "ipo")])
def test_vision_pairs_train_as_in_trl(theirs, ours, tiny_vlm, tmp_path):
    settings = {
        "max_steps": 2,
        "max_length": None,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    }
    trl = train(DPOTrainer, DPOConfig(**arguments(tmp_path, **settings), loss_type=[theirs]), tiny_vlm)
    mine = train(
        PairedPreferenceTrainer,
        PairedPreferenceConfig(**arguments(tmp_path, **settings), loss=ours),
        tiny_vlm,
    )
    for step in range(2):
        assert relative_difference(mine.recorder.gradients[step], trl.recorder.gradients[step]) < 1e-5
        for name in ("loss", "rewards/chosen", "rewards/margins", "logps/rejected", "entropy", "num_tokens"):
            expected = pytest.approx(trl.recorder.logs[step][name], rel=1e-5, abs=1e-5)
            assert mine.recorder.logs[step][name] == expected
    assert mine.image_rows.is_packed
    # One micro-batch of four pairs, under policy and reference: TRL's collator repeats each image.
    assert images_seen(trl, image_pairs(4)) == 2 * images_seen(mine, image_pairs(4)) == 2 * 2 * 4
    found, expected = (trainer.predict(image_pairs(3)) for trainer in (mine, trl))
    assert np.allclose(found.predictions, expected.predictions, atol=1e-4)
    assert (found.label_ids == expected.label_ids).all()


def images_seen(trainer, pairs) -> int:
    """Images that the tower is given while a trainer computes the loss of one micro-batch."""
    seen = []
    tower = trainer.model.get_base_model().model.vision_tower
    handle = tower.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(args[0])), with_kwargs=True)
    trainer.evaluate(pairs)
    handle.remove()
    return sum(seen)


class Watching(PairedPreferenceTrainer):
    """Reads the batches of its step."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        assert len(inputs["pixel_values"]) == len(inputs["input_ids"])
        return super().compute_loss(model, inputs, *args, **kwargs)


class Untouched(PairedPreferenceTrainer):
    """Reads nothing."""


def wrong_positions(backbone, batch):
    return torch.zeros_like(batch["packed"].position_ids)


@pytest.mark.parametrize(
    ("cls", "changes", "sentence"),
    [
        (Watching, {}, "rows: padded; packing is off for this model: `Watching` overrides `compute_loss`"),
        (Untouched, {"packing": False}, ""),
        (Untouched, {"fault": True}, "packing is off for this model: packed and padded log-probabilities disagree"),
    ],
)
def test_images_that_cannot_be_packed_are_padded(cls, changes, sentence, tiny_vlm, tmp_path, monkeypatch, capsys):
    """With the reason, and the loss and gradient of TRL's trainer."""
    settings = {"max_steps": 1, "max_length": None, "per_device_train_batch_size": 4}
    if changes.pop("fault", False):
        monkeypatch.setattr(images, "own_positions", wrong_positions)
    trl = train(DPOTrainer, DPOConfig(**arguments(tmp_path, **settings)), tiny_vlm)
    capsys.readouterr()
    mine = train(cls, PairedPreferenceConfig(**arguments(tmp_path, **settings), **changes), tiny_vlm)
    shown = capsys.readouterr().out
    assert sentence in shown and shown.count("rows:") == bool(sentence)
    assert not mine.image_rows.is_packed
    assert relative_difference(mine.recorder.gradients[0], trl.recorder.gradients[0]) < 1e-5
    assert mine.recorder.logs[0]["loss"] == pytest.approx(trl.recorder.logs[0]["loss"], rel=1e-5)


def test_labelled_images_train_as_in_trl(tiny_vlm, tmp_path, capsys):
    settings = {"max_steps": 2, "max_length": None, "train_sampling_strategy": "sequential"}
    theirs = KTOConfig(**arguments(tmp_path, **settings), loss_type="kto")
    ours = UnpairedPreferenceConfig(**arguments(tmp_path, **settings))
    trl = train(KTOTrainer, theirs, tiny_vlm, labelled_images(16))
    mine = train(UnpairedPreferenceTrainer, ours, tiny_vlm, labelled_images(16))
    for step in range(2):
        assert relative_difference(mine.recorder.gradients[step], trl.recorder.gradients[step]) < 1e-5
        for name in ("loss", "rewards/chosen", "rewards/margins", "logps/rejected", "entropy", "kl"):
            expected = pytest.approx(trl.recorder.logs[step][name], rel=1e-5, abs=1e-5)
            assert mine.recorder.logs[step][name] == expected, name
    assert max(log["kl"] for log in trl.recorder.logs) > 0
    assert capsys.readouterr().out.count("rows: padded; packing is for pairs, where data has images") == 1
    measured, expected = (trainer.evaluate(labelled_images(8)) for trainer in (mine, trl))
    assert measured["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5)


def test_the_baseline_of_images_is_that_of_the_whole_step(tiny_vlm, tmp_path):
    """The mismatched pairs of all micro-batches are averaged before the mean is clamped; here from full logits."""
    settings = {"per_device_train_batch_size": 4, "max_length": None, "max_steps": 1, "learning_rate": 0.0}
    config = UnpairedPreferenceConfig(**arguments(tmp_path, **settings), train_sampling_strategy="sequential")
    trainer = train(UnpairedPreferenceTrainer, config, tiny_vlm, labelled_images(16))
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            parameter.mul_(-1 if "lora_B" in name else 1)
    first, second, *_ = trainer.get_train_dataloader()
    batches = [first, second, second]

    def log_ratios(batch):
        ids, scored = batch["KL_input_ids"], batch["KL_completion_mask"][:, 1:]
        inputs = {
            "input_ids": ids,
            "attention_mask": batch["KL_attention_mask"],
            "pixel_values": batch["pixel_values"],
        }

        def logps():
            logits = trainer.model(**inputs).logits[:, :-1]
            return (logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2) * scored).sum(1)

        with torch.no_grad(), trainer.model.disable_adapter():
            reference = logps()
        with torch.no_grad():
            return logps() - reference

    apart = [log_ratios(batch) for batch in batches]
    assert apart[0].mean() < 0 < torch.cat(apart).mean()  # so that it matters where the mean is clamped
    z = trainer.row_objective.baseline.estimate_collated(batches)
    assert z == pytest.approx(torch.cat(apart).mean().item(), rel=1e-3)
