"""The data that tests of `Movement` train on, and how they measure a run."""

from datasets import Dataset

from tests.conftest import pairs
from trl_ext.methods import METHODS
from trl_ext.runs.movement import Moved, Movement

SAVED = {"save_strategy": "steps", "save_steps": 1}


def rows() -> dict[str, Dataset]:
    """Pairs to train on, and held-out ones, as arguments of a trainer."""
    return {"train_dataset": Dataset.from_list(pairs(12)), "eval_dataset": Dataset.from_list(pairs(3, seed=9))}


def measured(kind, trainer, checkpoint=None) -> tuple[Movement, Moved]:
    """Train, and measure how far that moved the policy."""
    movement = Movement(trainer, METHODS[kind])
    trainer.add_callback(movement)
    trainer.train(resume_from_checkpoint=checkpoint)
    return movement, movement.measure()
