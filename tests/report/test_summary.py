"""The tables a run ends with."""

import json

from rich.console import Console

from trl_ext.report import summary


def test_training_and_evaluation_have_a_table_each(tmp_path):
    records = [
        {"step": 1, "loss": 0.7, "rewards/margins": 0.0, "log_ratio/chosen": 0.0, "log_ratio/rejected": 0.0},
        {"step": 2, "eval_loss": 0.69, "eval_rewards/margins": 0.1},
        {"step": 4, "loss": 0.5, "rewards/margins": 1.25, "log_ratio/chosen": 1.5, "log_ratio/rejected": -1.0},
        {"step": 4, "eval_loss": 0.55, "eval_rewards/margins": 0.9, "eval_kl": None},
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    console = Console(width=80, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    training, evaluation = summary.first_and_last(file)
    console.print(training, evaluation)
    lines = [line.split() for line in console.export_text().splitlines() if line.strip()]
    assert lines == [
        ["training", "step", "1", "step", "4"],
        ["loss", "0.7", "0.5"],
        ["margin,", "nats", "0", "2.5"],
        ["log-ratio", "of", "chosen,", "nats", "0", "1.5"],
        ["log-ratio", "of", "rejected,", "nats", "0", "-1"],
        ["reward", "margin,", "β", "×", "nats", "0", "1.25"],
        ["evaluation", "step", "2", "step", "4"],
        ["loss", "0.69", "0.55"],
        ["reward", "margin,", "β", "×", "nats", "0.1", "0.9"],
    ]


def test_one_log_is_shown_once(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "loss": 0.5}\n', encoding="utf-8")
    (table,) = summary.first_and_last(tmp_path / "metrics.jsonl")
    assert [column.header for column in table.columns] == ["training", "step 10"]


def test_nothing_logged_is_no_table(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train_runtime": 3.0}\n', encoding="utf-8")
    assert summary.first_and_last(tmp_path / "metrics.jsonl") == []
