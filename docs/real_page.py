"""Write the results of `make real` into docs/real.md, the README and the headers of the recipes smollm2-135m-*."""

from collections.abc import Iterable
from typing import Any

from benchmarks.real import summary
from benchmarks.real.cells import BASE

NOTHING = "Nothing has been measured yet. `make real` measures it; on two CPU cores this takes hours."
NAMES = {
    BASE: "base",
    "sft": "SFT on the best",
    "ppo": "PPO",
    "online": "online DPO",
    "dpo": "DPO",
    "ipo": "IPO",
    "simpo": "SimPO",
    "kto": "KTO",
    "orpo": "ORPO",
}
SIDE_EFFECTS = {
    "ends_with_question": "ends with a question",
    "has_three_bullets": "three bullets",
    "avoids_first_person": "no first person",
}

Found = dict[str, dict[str, Any]]


def task_table(found: Found) -> str:
    """Success on held-out prompts, its cost in nats, side effects, time and memory of every method."""
    rows = [
        [
            name_of(name),
            share(record["task"]["success"]),
            f"{record['task']['words']['value']:.0f}",
            nats(record["task"]["kl"]),
            *(f"{record['task'][key]['value']:.0%}" for key in SIDE_EFFECTS),
            *cost(record),
        ]
        for name, record in on_task(found)
    ]
    heads = ["", "success", "words", "KL to the base, nats", *SIDE_EFFECTS.values(), "minutes", "peak memory"]
    return table(heads, rows) or NOTHING


def sentence(found: Found) -> str:
    """Success of the base and of every method, for the README."""
    records = dict(on_task(found))
    if BASE not in records:
        return NOTHING
    success = {name: share(record["task"]["success"]) for name, record in records.items()}
    methods = [f"{name_of(name)} {value}" for name, value in success.items() if name != BASE]
    return f"The base succeeds in {success[BASE]} of the answers. After training: {', '.join(methods)}."


def preferences_table(found: Found) -> str:
    """Accuracy, margin and KL on held-out real preferences."""
    if BASE not in found:
        return NOTHING
    rows = []
    for name, record in summary.runs(found, ["hh"]).items():
        ranked = summary.preferences(record, found[BASE])
        rows.append(
            [
                name_of(name),
                share(ranked.accuracy),
                value(ranked.margin, ".2f"),
                nats(record["pairs"]["kl"]),
                *cost(record),
            ]
        )
    return table(["", "accuracy", "margin, nats", "KL to the base, nats", "minutes", "peak memory"], rows) or NOTHING


def cost_table(found: Found) -> str:
    """What training did to the rest of the model: perplexity and facts, compared with the base."""
    rows = []
    for name, record in found.items():
        lost, won, p = summary.facts_changed(record, found[BASE]) if BASE in found else (0, 0, 1.0)
        rows.append(
            [
                name_of(name) + (", real preferences" if name.startswith("hh-") else ""),
                value(record["prose"], ".1f"),
                value(record["chosen"], ".1f"),
                share(record["facts"]["right"]),
                "" if name == BASE else f"{lost} lost, {won} won (p = {p:.2g})",
            ]
        )
    heads = ["", "perplexity of prose", "perplexity of chosen completions", "facts right", "against the base"]
    return table(heads, rows) or NOTHING


def answers(found: Found) -> str:
    """The most probable answers of every method to three held-out prompts."""
    records = list(on_task(found))
    if not records:
        return NOTHING
    parts = []
    for i, shown in enumerate(records[0][1]["task"]["shown"]):
        parts += [f"**{shown['prompt']}**", ""]
        rows = [[name_of(name), said(record["task"]["shown"][i])] for name, record in records]
        parts += [table(["", "most probable answer"], rows), ""]
    return "\n".join(parts).rstrip()


def header(recipe: str, found: Found) -> str | None:
    """Time and memory for the header of a recipe; `None` if it was not measured."""
    own = [record for record in found.values() if f"smollm2-135m-{record['recipe']}" == recipe]
    if not own:
        return None
    minutes, peaks = ([f(record["training"]) for record in own] for f in (_minutes, _gigabytes))
    losses = [record["loss"] for record in own if record["loss"]]
    which = f" ({', '.join(losses)})" if len(losses) > 1 else ""
    return f"{span(peaks, '.1f')} GB; {span(minutes, '.0f')} min of CPU time on one of two cores, in float32{which}."


def span(values: Iterable[float], form: str) -> str:
    """The range of the values, or the one they share."""
    ends = [format(each, form) for each in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def on_task(found: Found) -> list[tuple[str, dict[str, Any]]]:
    """The base and the runs that were trained for the task."""
    return [(name, record) for name, record in found.items() if not name.startswith("hh-")]


def name_of(cell: str) -> str:
    """What a cell is called in a table."""
    return NAMES[cell.removeprefix("hh-")]


def cost(record: dict[str, Any]) -> list[str]:
    """Minutes of CPU time and peak memory of training."""
    training = record.get("training")
    return [f"{_minutes(training):.0f}", f"{_gigabytes(training):.1f} GB"] if training else ["", ""]


def share(number: dict[str, float]) -> str:
    return f"{number['value']:.0%} [{number['low']:.0%}, {number['high']:.0%}]"


def value(number: dict[str, float], form: str) -> str:
    return f"{number['value']:{form}} [{number['low']:{form}}, {number['high']:{form}}]".replace("-", "−")


def nats(number: dict[str, float] | None) -> str:
    return value(number, ".2f") if number else "0"


def said(answer: dict[str, Any]) -> str:
    """An answer as a cell of a table; one that was cut at the limit of tokens ends with an ellipsis."""
    text = " ".join(answer["text"].split()).replace("|", "\\|")
    return text if answer["ended"] else f"{text} …"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; empty if there are no rows."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def _minutes(training: dict[str, Any]) -> float:
    return training["cpu_seconds"] / 60


def _gigabytes(training: dict[str, Any]) -> float:
    return training["peak_bytes"] / 1e9
