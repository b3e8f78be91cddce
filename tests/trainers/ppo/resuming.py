"""Runs that are interrupted after every step, of PPO and of losses on sampled pairs."""

from typing import Any

import torch

SETTINGS = {
    "optim": "adamw_torch",
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "steps_per_generation": 4,  # two optimizer steps, and twice over the same rollout: four steps each
    "num_iterations": 2,
    "save_strategy": "steps",
    "save_steps": 1,
}


def trained(trainer: Any, checkpoint: str | None = None) -> Any:
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    """Copies of all that is trained, the critic's among it."""
    names = (".default.", ".critic.", "value_head.")
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if any(n in name for n in names)}


def check_same(trainer: Any, expected: dict[str, torch.Tensor], logs: list[dict]) -> None:
    """Weights and logs, but for times, are bit by bit those of the uninterrupted run from where this one began."""
    measured = weights(trainer)
    assert measured.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(measured[name], expected[name])] == []
    for log, reference in zip(trainer.recorder.logs, logs[-len(trainer.recorder.logs) :], strict=True):
        assert log | {"step_time": 0} == reference | {"step_time": 0}


def steps_with_a_rollout(folder: Any, state_name: str, steps: int) -> list[int]:
    """After which steps the checkpoint holds the rest of a rollout."""
    states = {
        step: torch.load(folder / f"checkpoint-{step}" / f"{state_name}_0.pt", weights_only=True)
        for step in range(1, steps + 1)
    }
    return [step for step, state in states.items() if state["rollout"] is not None]
