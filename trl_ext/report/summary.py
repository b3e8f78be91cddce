"""Make the short tables that are printed at the end of a run."""

from pathlib import Path
from typing import Any

from rich.table import Table

from trl_ext.report import metrics_file
from trl_ext.report.metrics_file import with_margin

SHOWN = {
    "loss": "loss",
    "rewards/accuracies": "reward accuracy",
    "log_ratio/margin": "margin, nats",
    "log_ratio/chosen": "log-ratio of chosen, nats",
    "log_ratio/rejected": "log-ratio of rejected, nats",
    "rewards/margins": "reward margin, β × nats",
    "kl": "KTO baseline z, nats",
    "score": "score",
    "shaped_reward": "shaped reward",
    "kl/sequence": "KL to the reference, nats",
    "value_loss": "value loss",
    "explained_variance": "explained variance",
    "accuracy": "reward accuracy",
    "margin": "reward of chosen − rejected",
    "mean_token_accuracy": "token accuracy",
    "entropy": "entropy per token, nats",
}
"""The most important metrics of all kinds of training, with the names they have in curves and evaluations."""


def first_and_last(metrics: Path) -> list[Table]:
    """Tables with the first and last logged value of the most important metrics, for training and for evaluation.

    A table without logged values is left out.
    """
    records = [with_margin(record) for record in metrics_file.read(metrics)]
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
    for name, label in SHOWN.items():
        values = [record.get(f"{prefix}{name}") for record in ends]
        if None not in values:
            table.add_row(label, *(f"{float(value):.4g}" for value in values))
    return table
