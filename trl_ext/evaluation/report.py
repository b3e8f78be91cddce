"""Print the record of an evaluation."""

from __future__ import annotations

from typing import Any

from trl_ext.evaluation.intervals import format_estimate
from trl_ext.support import counts, terminal

LABELS = {"accuracy": "accuracy", "margin": "margin, nats", "area_under_curve": "AUC"}


def show(console: Any, record: dict[str, Any]) -> None:
    """Print a record of `trl_ext.evaluation.evaluate`."""
    data = record["data"]
    is_paired = "pairs" in data
    count, unit = (data["pairs"], "pairs") if is_paired else (data["answers"], "labelled completions")
    left_out = (
        f" {data['too_long']:,} were left out because they are too long (`max_length`)." if data["too_long"] else ""
    )
    console.print(
        f"\n[bold]{record['run']}[/bold], evaluated on {counts.count(count, unit)} of {data['name']}.{left_out}"
    )
    console.print(f"The base is {record['reference']}.")
    console.print(f"\n{'Chosen ranked above rejected' if is_paired else 'Desirable ranked above undesirable'}, by:")
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
