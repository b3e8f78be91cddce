"""What would take days on a CPU is said to."""

import pytest

from tests.doctor.helpers import only
from trl_ext import planner, recipe
from trl_ext.doctor import speed

BIG = "model_name_or_path: meta-llama/Llama-3.1-8B-Instruct\nload_in_4bit: true\n"


def judged(tmp_path, monkeypatch, text, rate=100e9):
    monkeypatch.setattr(speed, "operations", lambda: rate)
    (tmp_path / "r.yaml").write_text(
        f"{text}dataset_name: org/pairs\nloss: dpo\nuse_peft: true\nlora_target_modules: all-linear\n"
    )
    loaded = recipe.load(tmp_path / "r.yaml")
    return list(speed.on_cpu(loaded, planner.plan(loaded, vram=64)))


def test_eight_billion_weights_need_a_gpu(tmp_path, monkeypatch):
    """A pair is about 800 tokens: 4 operations a weight and token forward and back, 2 more for the reference."""
    status, found, remedy = only(
        judged(tmp_path, monkeypatch, f"{BIG}max_steps: 500\nper_device_train_batch_size: 8\n")
    )
    floor = 500 * 8 * 800 * 6 * 7e9 / 100e9 / speed.DAY
    days = float(found.partition("all 500 steps ")[2].split()[0].replace(",", ""))
    assert status == "fail" and floor <= days <= 2 * floor
    assert "Use a GPU" in remedy and "trl-ext plan" in remedy


def test_where_the_number_of_steps_is_not_known_some_examples_are_timed(tmp_path, monkeypatch):
    _, found, _ = only(judged(tmp_path, monkeypatch, BIG))
    assert "every 1,000 examples" in found


@pytest.mark.parametrize(("rate", "said"), [(1e12, []), (25e9, ["warn"]), (5e8, ["fail"])])
def test_the_speed_of_the_cpu_decides(rate, said, tmp_path, monkeypatch):
    text = "model_name_or_path: HuggingFaceTB/SmolLM3-3B\nload_in_4bit: true\nmax_steps: 10\nper_device_train_batch_size: 1\n"
    assert [str(finding.status) for finding in judged(tmp_path, monkeypatch, text, rate)] == said


def test_it_is_measured():
    assert 1e8 < speed.operations() < 1e14


def test_durations_in_words():
    assert [speed.in_words(s) for s in (0.5, 119, 121, 7300, 3 * 86400)] == [
        "0.5 seconds", "119 seconds", "2 minutes", "2 hours", "3 days",
    ]  # fmt: skip
