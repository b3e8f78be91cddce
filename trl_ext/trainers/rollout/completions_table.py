"""Put the numbers of a trainer here into TRL's table of completions (`log_completions: true`)."""

from typing import Any

from torch import Tensor


def show(trainer: Any, values: Tensor) -> None:
    """Show these values (B,) of each process in the table of completions instead of RLOO's advantages."""
    gathered = trainer.accelerator.gather(values).tolist()
    shown = trainer._logs["advantages"]
    for _ in range(min(len(gathered), len(shown))):
        shown.pop()
    shown.extend(gathered)
