"""When a run ends: its steps and tokens from the data, and rates that earlier runs measured."""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import pairs
from trl_ext import cli, recipe
from trl_ext.planner import cards, measured

RECIPE = "model_name_or_path: {model}\ndataset_name: rows.jsonl\nuse_peft: true\nmax_length: 512\n{more}"
ROWS = pairs(40)
WORDS = [(len(row["prompt"].split()), len(row["chosen"].split()), len(row["rejected"].split())) for row in ROWS]
COUNTED = sum(2 * prompt + chosen + rejected + 2 for prompt, chosen, rejected in WORDS)
"""Tokens of all pairs with the prompt twice, one per word and one for each end."""


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_model) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def written(model: str, more: str = "") -> str:
    Path("r.yaml").write_text(RECIPE.format(model=model, more=more))
    return "r.yaml"


def left(name: str, path: str, seconds: float = 10.0, device: str | None = "NVIDIA GeForce RTX 4090", **flags) -> Path:
    """A run directory that trained 5,000 tokens in so many seconds after its first log."""
    run = Path("runs", name)
    run.mkdir(parents=True)
    recipe.load(path, flags).dump(run / "recipe.resolved.yaml")
    (run / "environment.json").write_text(json.dumps({"devices": [{"name": device}] if device else []}))
    records = [
        {"step": 1, "seconds": 30.0, "num_tokens": 1000},
        {"step": 2, "seconds": 30.0 + seconds, "num_tokens": 6000},
        {"step": 2, "seconds": 99.0, "train_loss": 0.5},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def planned(capsys, *words: str) -> dict:
    assert cli.main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("more", "steps", "epochs", "share"),
    [
        ("per_device_train_batch_size: 4\nnum_train_epochs: 1\n", 10, 1, 1),
        ("per_device_train_batch_size: 3\ngradient_accumulation_steps: 2\nnum_train_epochs: 2\n", 14, 2, 2),
        ("per_device_train_batch_size: 4\nmax_steps: 5\n", 5, 0.5, 0.5),
    ],
)
def test_steps_and_tokens_are_those_of_the_data(folder, tiny_model, capsys, more, steps, epochs, share):
    found = planned(capsys, written(tiny_model, more))
    run = found["run"]["schedule"]
    assert (run["steps"], run["epochs"], run["examples"]) == (steps, epochs, 40)
    assert run["tokens"] == pytest.approx(share * COUNTED)
    assert found["mean_tokens"] == pytest.approx(sum(p + c + r + 2 for p, c, r in WORDS) / 40)


def test_rows_that_are_held_out_are_not_counted(folder, tiny_model, capsys):
    more = "per_device_train_batch_size: 5\nnum_train_epochs: 1\neval_size: 10\neval_strategy: steps\neval_steps: 5\n"
    assert planned(capsys, written(tiny_model, more))["run"]["schedule"]["steps"] == 6


def test_flags_come_before_what_is_measured(folder, tiny_model, capsys):
    words = [
        written(tiny_model, "per_device_train_batch_size: 4\nnum_train_epochs: 1\n"),
        "--examples",
        "400",
        "--tokens",
        "100",
    ]
    run = planned(capsys, *words)["run"]["schedule"]
    assert (run["steps"], run["tokens"]) == (100, 40_000)


def test_rows_beyond_the_limit_come_with_a_length_that_keeps_them(folder, tiny_model, capsys):
    assert cli.main(["plan", written(tiny_model), "--max_length", "16"]) == 0
    printed = capsys.readouterr().out
    lost = sum(prompt + max(chosen, rejected) + 1 > 16 for prompt, chosen, rejected in WORDS) / 40
    assert f"{lost:.1%} of the pairs are longer than `max_length` 16 and lose their end. 64 would keep 95%." in printed


def test_prompts_and_the_longest_completions_are_counted(capsys):
    found = planned(capsys, "demo-ppo")["run"]["schedule"]
    assert found["steps"] == 60  # 30 rollouts of 64 completions, each used twice
    assert 30 * 64 * (80 + 10) < found["tokens"] < 30 * 64 * (80 + 15)


def test_data_elsewhere_is_not_invented(capsys):
    assert cli.main(["plan", "llama-3.1-8b-ipo"]) == 0
    printed = capsys.readouterr().out
    assert "The data is not measured: it is not on this computer. Give `--examples N` and `--tokens N`." in printed
    assert "The run has" not in printed
    assert planned(capsys, "llama-3.1-8b-ipo", "--examples", "640")["run"]["schedule"] == {
        "steps": 20, "epochs": 1.0, "examples": 640, "tokens": None,
    }  # fmt: skip


def test_a_measured_rate_gives_the_time(folder, tiny_model, capsys):
    path = written(tiny_model, "num_train_epochs: 1\n")
    left("a", path)
    assert planned(capsys, path)["run"]["seconds"] == {"NVIDIA GeForce RTX 4090": pytest.approx(COUNTED / 500)}
    assert cli.main(["plan", path, "--card", "4090"]) == 0
    printed = capsys.readouterr().out
    assert "at the 500 tokens per second that runs/a measured. Started now, it would end at" in printed
    assert "is not known" not in printed


@pytest.mark.parametrize(
    ("device", "card", "is_known"),
    [
        ("NVIDIA GeForce RTX 4090", "3090", False),
        ("NVIDIA GeForce RTX 3090 Ti", "3090", False),
        ("NVIDIA GeForce RTX 3090", "3090", True),
        ("NVIDIA GeForce RTX 4080", "4080", True),
        (None, "4090", False),
    ],
)
def test_a_rate_of_another_card_is_not_that_of_this_one(folder, tiny_model, capsys, device, card, is_known):
    path = written(tiny_model)
    left("a", path, device=device)
    assert cli.main(["plan", path, "--card", card]) == 0
    assert (f"on an {cards.choose(card, None).title}, so how long" in capsys.readouterr().out) != is_known


@pytest.mark.parametrize(
    "flags",
    [
        {"load_in_4bit": True},
        {"loss": "kto"},
        {"trainer": "sft"},
        {"model_name_or_path": "embedded"},
        {"use_peft": False},
    ],
    ids=str,
)
def test_other_runs_say_nothing(folder, tiny_model, flags):
    path = written(tiny_model)
    left("other", path, **flags)
    assert measured.rates(recipe.load(path)) == {}


def test_the_latest_run_counts_and_damaged_ones_do_not(folder, tiny_model):
    path = written(tiny_model)
    old, new = left("old", path, 10), left("new", path, 20, loss="ipo")
    os.utime(old / "metrics.jsonl", (1, 1))
    for name in ("recipe.resolved.yaml", "environment.json", "metrics.jsonl"):
        broken = left(f"without-{name}", path, 1)
        (broken / name).unlink()
    (left("one-log", path, 1) / "metrics.jsonl").write_text('{"seconds": 1, "num_tokens": 5}\n')
    (found,) = measured.rates(recipe.load(path)).values()
    assert (found.run, found.tokens_per_second) == (new, 250)
