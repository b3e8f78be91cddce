"""The saved measurements of updates as a Markdown table."""

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
OURS, NARROW, AS_IS = "ours", "TRL, head on completions", "TRL as it is"
"""What is measured. TRL's LM head runs on completion tokens only on a GPU."""
CHECKPOINTING = "checkpointing-"
QUANTITIES = {"seconds": ("seconds", 1), "peak_bytes": ("peak GiB", 2**30)}


def path_of(device: str, checkpointing: bool) -> Path:
    """Where measurements are kept."""
    return RESULTS / f"rl-{CHECKPOINTING * checkpointing}{device}.json"


def saved(device: str = "cpu") -> list[dict[str, Any]]:
    """The records of a device, without and with gradient checkpointing, as far as they exist."""
    paths = [path_of(device, checkpointing) for checkpointing in (False, True)]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def table(records: list[dict[str, Any]], ways: tuple[str, ...] = (AS_IS, NARROW)) -> str:
    """Medians of TRL and ours, and their ratio with its range over the rounds; what they were measured on."""
    lines = ["| an update | TRL | trl-ext | ratio |", "|---|---|---|---|"]
    for record in records:
        both = ", both with gradient checkpointing" if record["settings"]["checkpointing"] else ""
        for way in ways:
            if way in record["rounds"][0]:
                lines += [_row(record["rounds"], way, quantity, both) for quantity in QUANTITIES]
    return "\n".join([*lines, "", about(records[0])])


def about(record: dict[str, Any]) -> str:
    given, versions = record["settings"], record["versions"]
    worst = max(found["gradient difference"] for found in record["rounds"])
    return (
        f"Medians of {given['rounds']} rollouts, with the smallest and the largest ratio. Measured {record['date']} on "
        f"{record['device']}, {record['threads']} thread, torch {versions['torch']}, TRL {versions['trl']}. A rollout has "
        f"{given['prompts']} prompts of {given['prompt']} tokens with {given['completions']} completions of {given['completion']}. "
        f"The model is a random Llama with {given['layers']} layers of width {given['hidden']} and 32,000 tokens in NF4, with LoRA on "
        f"all linear layers. Our rows have up to {given['row_tokens']:,} tokens, TRL's micro-batches {given['completions']} "
        f"completions. The gradients differ by a relative {worst:.0e}."
    )


def _row(rounds: list[dict[str, Any]], way: str, quantity: str, both: str) -> str:
    unit, scale = QUANTITIES[quantity]
    both_measured = [found for found in rounds if way in found]
    theirs, ours = ([found[name][quantity] / scale for found in both_measured] for name in (way, OURS))
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    what = "TRL ÷ ours"
    if quantity == "peak_bytes":
        ratios, what = [1 / ratio for ratio in ratios], "ours ÷ TRL"
    spread = f"{statistics.median(ratios):.2f}"
    if len(ratios) > 1:
        spread += f" ({min(ratios):.2f} … {max(ratios):.2f})"
    return (
        f"| {way}{both}: {unit} | {statistics.median(theirs):.2f} | {statistics.median(ours):.2f} | {what} {spread} |"
    )
