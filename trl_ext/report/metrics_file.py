"""Read `metrics.jsonl`, also after a crash in the middle of a line."""

import json
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """Read all complete records. An incomplete line is skipped."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def with_margin(record: dict[str, Any]) -> dict[str, Any]:
    """The record with `log_ratio/margin`, the log-ratio of chosen minus that of rejected, where it has both."""
    found = dict(record)
    for prefix in ("", "eval_"):
        both = [record.get(f"{prefix}log_ratio/{side}") for side in ("chosen", "rejected")]
        if all(isinstance(value, int | float) for value in both):
            found[f"{prefix}log_ratio/margin"] = both[0] - both[1]
    return found
