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
