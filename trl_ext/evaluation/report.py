"""Print the record of an evaluation."""

from __future__ import annotations

from typing import Any

from trl_ext.evaluation import results
from trl_ext.support import counts, terminal
from trl_ext.support.intervals import format_estimate

LABELS = {"accuracy": "accuracy", "margin": "margin, nats", "area_under_curve": "AUC"}

DETAILED = ("chosen", "rejected", "ended")
"""Measures that the tables below the result have."""

SHOWN = 3
"""Prompts whose completions are printed."""


def file_name(record: dict[str, Any]) -> str:
    """Name of the file of a record in the directory of its run."""
    return f"eval-{record['data']['name']}.json"


def show(console: Any, record: dict[str, Any]) -> None:
    """Print a record of `trl_ext.evaluation.evaluate`."""
    data = record["data"]
    is_paired = "pairs" in data
    left_out = (
        f" {data['too_long']:,} were left out because they are too long (`max_length`)." if data["too_long"] else ""
    )
    console.print(f"\n[bold]{record['run']}[/bold], evaluated on {_rows(data)} of {data['name']}.{left_out}")
    console.print(f"The base is {record['reference']}.")
    show_result(console, record)
    console.print(f"{'Chosen ranked above rejected' if is_paired else 'Desirable ranked above undesirable'}, by:")
    console.print(_ranking(record["ranking"]))
    console.print(_completions(record))
    if sampled := record.get("sampled"):
        kl, ended = sampled["kl"], sampled["ended"]
        console.print(
            f"KL(tuned‖base), from {counts.count(sampled['n'], 'sampled completions')}: {_shown(kl['k1'])} (k1), {_shown(kl['k3'])} (k3) nats "
            f"per completion. Share that ended within {sampled['max_new_tokens']:,} tokens: tuned "
            f"{ended['tuned']['value']:.0%}, base {ended['base']['value']:.0%}."
        )
    console.print(f"Intervals: {record['intervals']}.", style="dim")


def show_result(console: Any, record: dict[str, Any]) -> None:
    """Print every measure before and after training."""
    base, tuned = results.of_base(record), results.of_run(record)
    table = terminal.table("", "before", "after")
    for measure in results.measures([base, tuned], without=DETAILED):
        table.add_row(measure.name, *(format_estimate(row.get(measure.key), measure.form) for row in (base, tuned)))
    console.print(table)
    sampled = record.get("sampled")
    drawn = (
        f"{counts.count(sampled['n'], 'completions')} sampled at temperature 1, each for another prompt; "
        if sampled
        else ""
    )
    console.print(
        f"{drawn}{_rows(record['data'])}. ± is half the width of the 95 % interval; (from–to) if it is not symmetric.",
        style="dim",
    )


def show_examples(console: Any, record: dict[str, Any], count: int = SHOWN) -> None:
    """Print completions of the base and of the tuned model, first for prompts for which they differ."""
    both = list(zip(*(record["sampled"]["examples"][who] for who in ("base", "tuned")), strict=True))
    both.sort(key=lambda pair: pair[0]["text"] == pair[1]["text"])  # keeps the order otherwise
    for before, after in both[:count]:
        console.print(before["prompt"], style="bold", markup=False)
        for label, example in (("before", before), ("after", after)):
            first = next(iter(example["scores"].items()), None)
            score = f"  [{first[0]} {first[1]:.2f}]" if first else ""
            text = " ".join(example["text"].split())
            console.print(terminal.wrap(f"  {label:8}{text}{score}", indent=10), markup=False)
        console.print()


def _rows(data: dict[str, Any]) -> str:
    number, unit = (data["pairs"], "pairs") if "pairs" in data else (data["answers"], "labelled completions")
    return counts.count(number, unit)


def _ranking(ranking: dict[str, Any]) -> Any:
    by = {"log_ratio": "log-ratio", "tuned": "log-prob, tuned", "base": "log-prob, base"}
    table = terminal.table("", *by.values())
    for name in ranking["log_ratio"]:
        label = "  per token" if name.endswith("per_token") else LABELS[name]
        digits = 2 if name == "margin" else 3
        table.add_row(label, *(_shown(ranking[key][name], digits) for key in by))
    return table


def _completions(record: dict[str, Any]) -> Any:
    table = terminal.table("completions", "log-ratio, nats", "tokens")
    kinds = {name: (record["log_ratio"][name], record["tokens"][name]) for name in record["log_ratio"]}
    if sampled := record.get("sampled"):
        kinds |= {
            f"sampled, {name}": (sampled["log_ratio"][name], sampled["tokens"][name]) for name in sampled["tokens"]
        }
    for name, (log_ratio, tokens) in kinds.items():
        table.add_row(name, _shown(log_ratio), _shown(tokens, 1))
    return table


def _shown(estimate: dict[str, float] | None, digits: int = 2) -> str:
    return format_estimate(estimate, f"{{:.{digits}f}}")
