"""Estimate how long a recipe trains on a CPU: a model that fits its memory may still take days."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from trl_ext.doctor.finding import Finding, fails, warns
from trl_ext.support.counts import every

WIDTH, TRIES = 1024, 5
"""Size of the matrices that are multiplied, and number of repetitions."""
HOUR, DAY = 3600.0, 86400.0
SOME = 1000
"""Examples whose time is reported if the number of steps is unknown."""


def operations() -> float:
    """Operations per second of a float32 matrix product on this CPU; the best of a few tries."""
    import torch

    matrix = torch.ones(WIDTH, WIDTH)
    seconds = []
    for _ in range(TRIES):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return 2 * WIDTH**3 / min(seconds)


def on_cpu(recipe: Any, planned: Any) -> Iterator[Finding]:
    """Warn about runs that take over an hour on this CPU, estimated from their matrix products."""
    from trl_ext.planner import request
    from trl_ext.planner.cards import Card, step_seconds
    from trl_ext.planner.memory import SEGMENTS

    asked, rate = request.read(recipe), operations()
    cpu = Card("this CPU", math.inf, rate, math.inf, SEGMENTS)
    passes = asked.training.passes
    tokens = asked.examples_per_step * asked.mean_tokens()
    row = asked.row(planned.row_tokens, SEGMENTS)
    step = step_seconds(cpu, asked.shape, row, asked.storage, planned.checkpointed_layers, tokens, passes)
    seconds, what = _of_the_run(recipe, planned, step)
    found = (
        f"a step takes about {in_words(step)} on this CPU, {what} {in_words(seconds)} (examples of "
        f"{asked.mean_tokens():,.0f} tokens)"
    )
    if seconds >= DAY:
        yield fails("speed", found, f"Use a GPU. `trl-ext plan {recipe.word}` estimates the time on several.")
    elif seconds >= HOUR:
        yield warns("speed", found, f"A GPU is faster. `trl-ext plan {recipe.word}` estimates the time on several.")


def _of_the_run(recipe: Any, planned: Any, step: float) -> tuple[float, str]:
    """Seconds of the whole run, or of `SOME` examples if the number of steps is unknown, and a name for it."""
    steps = recipe.effective("max_steps")
    if steps <= 0 and planned.examples:
        steps = math.ceil(recipe.effective("num_train_epochs") * planned.examples / planned.examples_per_step)
    if steps > 0:
        return steps * step, every(steps, "steps")
    return SOME / planned.examples_per_step * step, f"every {SOME:,} examples"


def in_words(seconds: float) -> str:
    """A duration with its unit."""
    for unit, length in (("days", DAY), ("hours", HOUR), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.{0 if seconds >= 10 else 1}f} seconds"
