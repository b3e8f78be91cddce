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
    found = []
    for title, steps, rows in ends(metrics):
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(title)
        for step in steps:
            table.add_column(step, justify="right")
        for row in rows:
            table.add_row(*row)
        found.append(table)
    return found


def ends(metrics: Path) -> list[tuple[str, list[str], list[list[str]]]]:
    """The same as texts: title, steps, and rows of a name and its values. Both steps are one if the run logged only one."""
    records = [with_margin(record) for record in metrics_file.read(metrics)]
    found = (_ends(records, prefix) for prefix in ("", "eval_"))
    return [(title, *each) for title, each in zip(("training", "evaluation"), found, strict=True) if each is not None]


def _ends(records: list[dict[str, Any]], prefix: str) -> tuple[list[str], list[list[str]]] | None:
    records = [record for record in records if f"{prefix}loss" in record]
    if not records:
        return None
    chosen = [records[0], records[-1]] if records[-1]["step"] > records[0]["step"] else [records[-1]]
    rows = []
    for name, label in SHOWN.items():
        values = [record.get(f"{prefix}{name}") for record in chosen]
        if None not in values:
            rows.append([label, *(f"{float(value):.4g}" for value in values)])
    return [f"step {record['step']}" for record in chosen], rows
