"""Read and write the counters that a preference trainer adds to a checkpoint."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.support import atomic

FILE = "trl_ext_counters.json"


class Counters(NamedTuple):
    """State that transformers does not restore.

    Attributes:
        num_tokens: Tokens trained on so far.
        row_budget: Tokens of a row; `None` if they were not chosen yet.
        reference_budget: Tokens of a row of the reference that is computed before the policy's rows; `None` without a limit.
        loss_state: Running values of the loss (`trl_ext.trainers.preference.loss_state`); empty for most losses.
    """

    num_tokens: int
    row_budget: int | None
    reference_budget: int | None
    loss_state: dict[str, Any]


def write_counters(checkpoint: Path, counters: Counters) -> None:
    """Write the counters into a checkpoint."""
    atomic.write_json(checkpoint / FILE, counters._asdict())


def read_counters(checkpoint: Path) -> Counters | None:
    """The counters of a checkpoint; `None` if it has none."""
    path = checkpoint / FILE
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return Counters(
        found["num_tokens"], found["row_budget"], found.get("reference_budget"), found.get("loss_state", {})
    )
