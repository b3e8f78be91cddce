"""Tables of the results of `python -m benchmarks.step`."""

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import step_record
from benchmarks.step_record import AS_IS, BYTES, NARROW, SECONDS, WAYS, spread

RESULTS = Path(step_record.__file__).parent / "results"
MODEL = "smollm2-135m-instruct"
NOTHING = "Nothing has been measured with a real model yet. `make bench MODEL=FOLDER` measures it."
SHORT = (
    # what, TRL's step, ours, the quantity
    ("DPO step: seconds, TRL at its defaults", f"TRL default, 8 pairs, {AS_IS}", "packed", SECONDS),
    ("DPO step: seconds, TRL's LM head on completions only", f"TRL default, 8 pairs, {NARROW}", "packed", SECONDS),
    ("the same, both with gradient checkpointing", f"TRL default, 8 pairs, {NARROW}", "packed, checkpointing", SECONDS),
    ("DPO step: peak GiB, both with gradient checkpointing", f"TRL default, 8 pairs, {NARROW}", "packed, checkpointing", BYTES),
    ("DPO step: peak GiB, both without", f"TRL, 8 pairs, {NARROW}", "packed", BYTES),
)  # fmt: skip
PROFILED = f"TRL default, 8 pairs, {NARROW}", "packed, checkpointing"
"""The steps that are compared by their parts: both recompute all layers."""


def saved(model: str | None = None) -> dict[str, Any] | None:
    """The saved measurements on a model, or on the random one; `None` before there are any."""
    path = RESULTS / ("-".join(filter(None, ("step", model, "cpu"))) + ".json")
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return record if record and any(record["cells"].values()) else None


def lines(record: dict[str, Any]) -> list[str]:
    """TRL's step and ours on a real model: a few rows for the README."""
    return [line for row in SHORT if (line := _line(record, *row))]


def full(record: dict[str, Any] | None) -> str:
    """All ratios on a real model, the tokens, and the parts of a step."""
    if record is None:
        return NOTHING
    parts = [ratios(record), "", _made_on(record)]
    if tokens := _tokens(record):
        parts[-1] += f" In {tokens}"
    if continued := _continued(record):
        parts[-1] += f" {continued}"
    if profile := _profile(record):
        parts += ["", profile]
    return "\n".join(parts)


def random_model(record: dict[str, Any]) -> str:
    """All ratios on the random model, and what they were measured on."""
    settings, versions = record["settings"], record["versions"]
    return "\n".join(
        [
            ratios(record),
            "",
            f"Measured {record['date']} on {record['device']}, {record['threads']} thread, torch {versions['torch']}, TRL "
            f"{versions['trl']}. The model is a Llama with {settings['layers']} layers of width {settings['hidden']} in NF4, "
            f"with LoRA on all linear layers; a step has {settings['pairs']} pairs of {record['data']}. Part of the difference "
            f"is the layout: in {_tokens(record)}",
        ]
    )


def ratios(record: dict[str, Any]) -> str:
    """TRL ÷ ours for each way TRL was taken: the median of the seeds, with the smallest and the largest."""
    rows = step_record.table(record)
    ways = [way for way in WAYS if any(way in found for found in rows.values())]
    lines = [f"| TRL ÷ ours | {' | '.join(f'TRL, {way}' for way in ways)} |", "|---" * (len(ways) + 1) + "|"]
    lines += [
        f"| {what} | {' | '.join(spread(found[way]) if way in found else '' for way in ways)} |"
        for what, found in rows.items()
    ]
    return "\n".join(lines)


def _line(record: dict[str, Any], what: str, theirs: str, ours: str, quantity: str) -> str | None:
    """A row of the short table: medians of the seeds in which both were measured."""
    both = [
        (cells[theirs][0][quantity], cells[ours][0][quantity])
        for cells in step_record.by_seed(record)
        if theirs in cells and ours in cells
    ]
    if not both:
        return None
    unit, digits = (2**30, 2) if quantity == BYTES else (1, 1)
    medians = [f"{statistics.median(values) / unit:.{digits}f}" for values in zip(*both, strict=True)]
    return f"| {what} | {' | '.join(medians)} | TRL ÷ ours {spread([their / our for their, our in both])} |"


def _made_on(record: dict[str, Any]) -> str:
    settings, versions = record["settings"], record["versions"]
    seeds = max((len(each) for found in step_record.table(record).values() for each in found.values()), default=0)
    many = f"Medians of {seeds} seeds, with the smallest and the largest ratio. " if seeds > 1 else "One seed. "
    return (
        f"{many}Measured {record['date']} on {record['device']}, {record['threads']} thread, torch {versions['torch']}, TRL "
        f"{versions['trl']}, with {settings['model']} in NF4, LoRA on all linear layers, and pairs of {record['data']} of at "
        f"most {settings['max_length']} tokens."
    )


def _tokens(record: dict[str, Any]) -> str | None:
    every = list(record["tokens"].values())
    if not every:
        return None
    four, eight = (spread([tokens[f"TRL, {batch} pairs"] / tokens["ours"] for tokens in every]) for batch in (4, 8))
    return f"micro-batches of 4 and 8 pairs, TRL computes {four} and {eight} times as many tokens per forward pass."


def _continued(record: dict[str, Any]) -> str | None:
    """How memory without checkpointing was found, and how exact that is for a step whose memory is known."""
    layers = record["settings"]["layers"]
    checks = [
        (step_record.at_all_layers(cells, "packed", layers), cells["packed"][0][BYTES])
        for cells in record["cells"].values()
        if "packed" in cells
    ]
    checks = [(continued, measured) for continued, measured in checks if continued is not None]
    if not checks:
        return None
    few, more = step_record.LAYERS
    continued, measured = (statistics.median(values) / 2**30 for values in zip(*checks, strict=True))
    return (
        f"TRL's peak memory without checkpointing is that of steps with {few} and {more} of the {layers} layers, continued "
        f"linearly to all layers, as a whole step may not fit in memory. For trl-ext this gives {continued:.2f} GiB, and a whole "
        f"step takes {measured:.2f} GiB."
    )


def _profile(record: dict[str, Any]) -> str | None:
    """Seconds of each part of a step, the mean of the seeds."""
    both = [
        [cells[name][0] for name in PROFILED]
        for cells in record["cells"].values()
        if all("shares" in cells.get(name, [{}])[0] for name in PROFILED)
    ]
    if not both:
        return None
    lines = ["| seconds of a step, both with checkpointing | TRL | trl-ext | TRL ÷ ours |", "|---|---|---|---|"]
    for part in both[0][0]["shares"]:
        theirs, ours = (
            statistics.mean(found[SECONDS] * found["shares"][part] for found in column)
            for column in zip(*both, strict=True)
        )
        lines.append(f"| {part} | {theirs:.1f} | {ours:.1f} | {theirs / ours:.2f} |")
    return "\n".join(lines)
