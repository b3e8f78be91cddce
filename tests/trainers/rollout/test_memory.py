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
    """A trainer after two steps, and of each part of a micro-batch its phase, its tokens and which layers are checkpointed."""
    if free is not None:
        monkeypatch.setattr(activation_memory, "free_for_activations", lambda *_: free)
    args = KINDS[kind].config(tmp_path, max_steps=2, gradient_checkpointing=checkpointing, learning_rate=0.1)
    trainer, passes = KINDS[kind].build(model, args), []
    layers = trainer.model.get_base_model().model.layers

    def watch(original, phase, batch, forward):
        original(phase, batch, forward)
        completions, prompts = batch["completion_ids"], batch["prompt_ids"]
        rows = completions.shape[:-1].numel()  # two completions of a pair
        size = rows * (prompts.size(1) + completions.size(-1))
        passes.append((phase, size, [layer.gradient_checkpointing for layer in layers]))

    def sampled(original, *given):
        assert not any(layer.gradient_checkpointing for layer in layers) or checkpointing is True
        return original(*given)

    if checkpointing == "auto":
        intercept(trainer.update.micro_batches.memory, "checkpoint_for", watch)
    intercept(trainer, "_generate_single_turn", sampled)
    disturb(trainer)
    trainer.train()
    return trainer, trainer.recorder.gradients, passes


@pytest.mark.parametrize("kind", KINDS)
def test_each_micro_batch_recomputes_only_what_it_needs(kind, model, tmp_path, monkeypatch):
    _, expected, _ = run(kind, model, tmp_path, monkeypatch, checkpointing=False)
    plenty, gradients, passes = run(kind, model, tmp_path, monkeypatch, free=2**40)
    assert same_gradients(gradients, expected)
    memories = plenty.update.micro_batches.memory.by_phase
    assert len(memories) == {"ppo": 2, "online": 1}[kind]
    assert {tuple(flags) for *_, flags in passes} == {(False, False)}

    largest = max(size for _, size, _ in passes)
    held = sum(p.numel() * 4 for p in plenty.update.parameters())  # gradients of earlier micro-batches
    middle = max(memory.footprint.peak(largest, 1) for memory in memories.values())
    assert middle < max(memory.footprint.peak(largest, 0) for memory in memories.values())
    some, gradients, passes = run(kind, model, tmp_path, monkeypatch, free=middle + held)
    assert same_gradients(gradients, expected)
    memories = some.update.micro_batches.memory.by_phase
    for phase, size, flags in passes:
        count = fewest_layers(memories[phase].footprint, size, middle)
        assert flags == [number < count for number in range(LAYERS)], phase
    assert [True, False] in [flags for *_, flags in passes]


@pytest.mark.parametrize("kind", KINDS)
def test_memory_that_runs_out_recomputes_everything_before_parts_are_halved(
    kind, model, tmp_path, monkeypatch, capsys
):
    def disturb(trainer):
        loss_of = trainer.update.policy_loss

        def policy_loss(batch, sums):
            if trainer.update.micro_batches.memory.layers.count != LAYERS:
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")
            return loss_of(batch, sums)

        trainer.update.policy_loss = policy_loss

    _, expected, _ = run(kind, model, tmp_path, monkeypatch, checkpointing=True)
    trainer, gradients, _ = run(kind, model, tmp_path, monkeypatch, free=2**40, disturb=disturb)
    assert same_gradients(gradients, expected) and trainer.update.micro_batches.part_size is None
    assert "run again, from now on with gradient checkpointing in all layers" in " ".join(
        capsys.readouterr().out.split()
    )
