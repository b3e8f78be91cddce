"""The saved measurements of updates as a Markdown table."""

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
OURS, NARROW, AS_IS = "ours", "TRL, head on completions", "TRL as it is"
"""What is measured. TRL's LM head runs on completion tokens only on a GPU."""
DIFFERENCE = "gradient difference"
QUANTITIES = {"seconds": ("seconds", 1), "peak_bytes": ("peak GiB", 2**30)}


def path_of(device: str, checkpointing: bool, model: str | None = None) -> Path:
    """Where measurements are kept, by the name of a model that was given."""
    parts = ("rl", model, "checkpointing" if checkpointing else None, device)
    return RESULTS / ("-".join(filter(None, parts)) + ".json")


def saved(device: str = "cpu", model: str | None = None) -> list[dict[str, Any]]:
    """The records of a device, without and with gradient checkpointing, as far as they exist."""
    paths = [path_of(device, checkpointing, model) for checkpointing in (False, True)]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def table(records: list[dict[str, Any]]) -> str:
    """Medians of TRL and ours, and their ratio with its range over the rounds; what they were measured on."""
    head = ["| | TRL | trl-ext | ratio |", "|---|---|---|---|"]
    return "\n".join([*head, *(line for record in records for line in lines(record)), "", about(records[0])])


def lines(record: dict[str, Any]) -> list[str]:
    """The rows of a record: seconds and memory of each way that TRL was measured."""
    both = ", both with gradient checkpointing" if record["settings"]["checkpointing"] else ""
    ways = [way for way in (AS_IS, NARROW) if any(way in cells for cells in rounds(record))]
    return [_row(rounds(record), way, quantity, both) for way in ways for quantity in QUANTITIES]


def rounds(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The one measurement of each name, for each rollout."""
    return [{name: found[0] for name, found in cells.items()} for cells in record["cells"].values()]


def model(given: dict[str, Any]) -> str:
    """The model of a record's settings, a noun phrase."""
    if "model" in given:
        return f"{given['model']} ({given['vocabulary']:,} tokens)"
    return (
        f"a random Llama with {given['layers']} layers of width {given['hidden']} and {given['vocabulary']:,} tokens"
    )


def about(record: dict[str, Any]) -> str:
    given, versions = record["settings"], record["versions"]
    differences = [cells[DIFFERENCE]["relative"] for cells in rounds(record) if DIFFERENCE in cells]
    worst = f" The gradients differ by a relative {max(differences):.0e}." if differences else ""
    return (
        f"Medians of {given['rounds']} rollouts, with the smallest and the largest ratio. Measured {record['date']} on "
        f"{record['device']}, {record['threads']} thread, torch {versions['torch']}, TRL {versions['trl']}. A rollout has "
        f"{given['prompts']} prompts of {given['prompt']} tokens with {given['completions']} completions of {given['completion']}. "
        f"The model is {model(given)} in NF4, with LoRA on all linear layers. Our rows have up to {given['row_tokens']:,} tokens, TRL's "
        f"micro-batches {given['completions']} completions.{worst}"
    )


def _row(every: list[dict[str, Any]], way: str, quantity: str, both: str) -> str:
    unit, scale = QUANTITIES[quantity]
    both_measured = [found for found in every if way in found and OURS in found]
    theirs, ours = ([found[name][quantity] / scale for found in both_measured] for name in (way, OURS))
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    what = "TRL ÷ ours"
    if quantity == "peak_bytes":
        ratios, what = [1 / ratio for ratio in ratios], "ours ÷ TRL"
    spread = f"{statistics.median(ratios):.2f}"
    if len(ratios) > 1:
        spread += f" ({min(ratios):.2f} … {max(ratios):.2f})"
    return f"| update of a rollout: {unit}, {way}{both} | {statistics.median(theirs):.2f} | {statistics.median(ours):.2f} | {what} {spread} |"
