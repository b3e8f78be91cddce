"""`gradient_checkpointing: auto` of PPO and online training: bit-identical gradients, and the number of layers counted by hand."""

import pytest
import torch

from tests.trainers.helpers import fewest_layers, intercept, same_gradients
from tests.trainers.online import helpers as online
from tests.trainers.ppo import helpers as ppo
from trl_ext.trainers.common import activation_memory

KINDS = {"ppo": ppo, "online": online}
LAYERS = 2  # of the tiny model


def run(kind, model, tmp_path, monkeypatch, *, free=None, checkpointing="auto", disturb=lambda trainer: None):
    """A trainer after two steps, and of each row of an update its tokens and which layers are checkpointed."""
    if free is not None:
        monkeypatch.setattr(activation_memory, "free_for_activations", lambda *_: free)
    args = KINDS[kind].config(tmp_path, max_steps=2, gradient_checkpointing=checkpointing, learning_rate=0.1)
    trainer, passes = KINDS[kind].build(model, args), []
    layers = trainer.model.get_base_model().model.layers

    def watch(original, tokens):
        original(tokens)
        passes.append((tokens, [layer.gradient_checkpointing for layer in layers]))

    def sampled(original, *given):
        assert not any(layer.gradient_checkpointing for layer in layers) or checkpointing is True
        return original(*given)

    intercept(trainer.rows.memory, "checkpoint_for", watch)
    intercept(trainer, "_generate_single_turn", sampled)
    disturb(trainer)
    trainer.train()
    return trainer, trainer.recorder.gradients, passes


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_recomputes_only_what_it_needs(kind, model, tmp_path, monkeypatch):
    _, expected, _ = run(kind, model, tmp_path, monkeypatch, checkpointing=False)
    plenty, gradients, passes = run(kind, model, tmp_path, monkeypatch, free=2**40)
    assert same_gradients(gradients, expected)
    assert len(passes) == {"ppo": 4, "online": 2}[kind]  # two steps, of a row for each role
    assert {tuple(flags) for *_, flags in passes} == {(False, False)}

    largest = max(size for size, _ in passes)
    footprint = plenty.rows.memory.activations.footprint
    middle = footprint.peak(largest, 1)
    assert middle < footprint.peak(largest, 0)
    some, gradients, passes = run(kind, model, tmp_path, monkeypatch, free=middle)
    assert same_gradients(gradients, expected)
    footprint = some.rows.memory.activations.footprint
    for size, flags in passes:
        count = fewest_layers(footprint, size, middle)
        assert flags == [number < count for number in range(LAYERS)]
    assert [True, False] in [flags for _, flags in passes]


@pytest.mark.parametrize("kind", KINDS)
def test_memory_that_runs_out_recomputes_everything_before_rows_are_shortened(
    kind, model, tmp_path, monkeypatch, capsys
):
    def disturb(trainer):
        loss_of = trainer.update.policy_loss

        def policy_loss(batch, sums):
            if trainer.rows.memory.checkpointed_layers != LAYERS:
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")
            return loss_of(batch, sums)

        trainer.update.policy_loss = policy_loss

    _, expected, _ = run(kind, model, tmp_path, monkeypatch, checkpointing=True)
    _, gradients, _ = run(kind, model, tmp_path, monkeypatch, free=2**40, disturb=disturb)
    assert same_gradients(gradients, expected)
    printed = " ".join(capsys.readouterr().out.split())
    assert "the step is run again, from now on with gradient checkpointing in all layers" in printed
    assert "with rows of up to" not in printed
