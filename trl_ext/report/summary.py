"""The short tables a run ends with."""

from pathlib import Path
from typing import Any

from rich.table import Table

from trl_ext.report import metrics_file

SHOWN = (
    "loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected", "kl",
    "score", "shaped_reward", "kl/sequence", "value_loss", "explained_variance",
    "accuracy", "margin", "mean_token_accuracy", "entropy",
)  # fmt: skip
"""What people look at first, of whatever was trained."""


def before_and_after(samples: dict[str, Any], pairs: dict[str, float]) -> Table:
    """Table of the embedded task: what was asked for (reward), what it cost (fluency, KL), how pairs rank.

    Args:
        samples: Result of `trl_ext.demo.evaluate.evaluate`.
        pairs: Result of `trl_ext.report.preferences.held_out`.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for heading in ("before", "after"):
        table.add_column(heading, justify="right")
    before, after = samples["before"], samples["after"]
    table.add_row("true reward of sampled completions", _pm(before, "reward"), _pm(after, "reward"))
    table.add_row("sentences that parse", _pm(before, "fluency"), _pm(after, "fluency"))
    table.add_row(
        "KL to the base, nats per completion",
        "0",
        f"{round(samples['kl'], 2) + 0.0:.2f} ± {samples['kl_se']:.2f}",
    )
    table.add_row("reward accuracy on held-out pairs", "0.500", f"{pairs['accuracy']:.3f}")
    table.add_row("reward margin, nats of log-ratio", "0", f"{pairs['margin']:.2f} ± {pairs['margin_se']:.2f}")
    table.add_row("tokens per completion", f"{before['length']:.1f}", f"{after['length']:.1f}")
    return table


def _pm(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.3f} ± {values[f'{name}_se']:.3f}"


def first_and_last(metrics: Path) -> Table | None:
    """First and last logged value of what people look at first; `None` if nothing was logged."""
    records = [record for record in metrics_file.read(metrics) if "loss" in record]
    if not records:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("training")
    for record in (records[0], records[-1]):
        table.add_column(f"step {record['step']}", justify="right")
    for name in SHOWN:
        if records[0].get(name) is not None and records[-1].get(name) is not None:
            table.add_row(name, *(f"{float(record[name]):.4g}" for record in (records[0], records[-1])))
    return table
