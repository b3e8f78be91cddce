"""Let the size of a rollout be given twice, as a copied configuration has it."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def given_once(config: Any) -> Iterator[None]:
    """Context for `RLOOConfig.__post_init__`, which sets both of the two settings and refuses both of them.

    Raises:
        ValueError: They disagree.
    """
    total, steps = config.generation_batch_size, config.steps_per_generation
    if total is None or steps is None:
        yield
        return
    config.steps_per_generation = None  # TRL derives it from the other one
    yield
    if config.steps_per_generation != steps:
        raise ValueError(
            f"`generation_batch_size` is {total} and `steps_per_generation` is {steps}. Both set the number of completions in a "
            f"rollout, and they disagree: for {total} completions, `steps_per_generation` is {config.steps_per_generation}. "
            "Keep one of them."
        )
