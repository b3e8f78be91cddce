"""Make the short tables that are printed at the end of a run."""

from pathlib import Path
from typing import Any

from rich.table import Table

from trl_ext.report import metrics_file

SHOWN = (
    "loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected", "kl",
    "score", "shaped_reward", "kl/sequence", "value_loss", "explained_variance",
    "accuracy", "margin", "mean_token_accuracy", "entropy",
)  # fmt: skip
"""The most important metrics of all kinds of training."""


def before_and_after(samples: dict[str, Any], pairs: dict[str, float]) -> Table:
    """Table of the embedded task before and after training: reward, fluency, KL, and accuracy on pairs.

    Args:
        samples: Result of `trl_ext.demo.evaluate.evaluate`.
        pairs: Result of `trl_ext.demo.preferences.held_out`.
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


def first_and_last(metrics: Path) -> list[Table]:
    """Tables with the first and last logged value of the most important metrics, for training and for evaluation.

    A table without logged values is left out.
    """
    records = metrics_file.read(metrics)
    found = (_ends("training", "", records), _ends("evaluation", "eval_", records))
    return [table for table in found if table is not None]


def _ends(title: str, prefix: str, records: list[dict[str, Any]]) -> Table | None:
    records = [record for record in records if f"{prefix}loss" in record]
    if not records:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    ends = [records[0], records[-1]] if records[-1]["step"] > records[0]["step"] else [records[-1]]
    for record in ends:
        table.add_column(f"step {record['step']}", justify="right")
    for name in SHOWN:
        values = [record.get(f"{prefix}{name}") for record in ends]
        if None not in values:
            table.add_row(name, *(f"{float(value):.4g}" for value in values))
    return table
