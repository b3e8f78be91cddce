"""What does not fit is refused before anything is fetched; on a GPU, plan and measurement are kept."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trl_ext import cli
from trl_ext.planner import calibration, plan
from trl_ext.planner.memory import GIB
from trl_ext.recipe import load
from trl_ext.runs import memory_check, run
from trl_ext.runs.signals import Interrupted, guard
from trl_ext.support.errors import UserError

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def card(monkeypatch):
    """A card of 24 GiB of which other programs hold 2, in place of CUDA's own answers."""
    numbers = SimpleNamespace(total=24 * GIB, others=2 * GIB, reserved=0, peak=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card 24")
    taken = lambda: numbers.others + numbers.reserved  # noqa: E731
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (numbers.total - taken(), numbers.total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: numbers.reserved)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: numbers.peak)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: numbers.peak)
    return numbers


def test_a_hopeless_recipe_is_refused_before_anything_is_built(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        memory_check.psutil, "virtual_memory", lambda: SimpleNamespace(total=4 * GIB, available=3 * GIB)
    )
    monkeypatch.setattr("trl_ext.model_files.available.require_model", lambda *_: None)
    built = []
    monkeypatch.setattr(
        "trl_ext.build.trainer.build_trainer", lambda *given: built.append(given) or pytest.skip.Exception("built")
    )
    words = ["run", str(RECIPES / "zephyr-7b-dpo.yaml"), "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "does not fit this machine's main memory" in said and "--force" in said and "\n" not in said.strip()
    assert not built and not (tmp_path / "out").exists()


def test_force_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(
        memory_check.psutil, "virtual_memory", lambda: SimpleNamespace(total=4 * GIB, available=3 * GIB)
    )

    monkeypatch.setattr("trl_ext.model_files.available.require_model", lambda *_: None)

    class Reached(Exception):
        pass

    def reached(*_):
        raise Reached

    monkeypatch.setattr("trl_ext.build.trainer.build_trainer", reached)
    with pytest.raises(Reached):
        run.main(
            str(RECIPES / "zephyr-7b-dpo.yaml"), {"output_dir": str(tmp_path / "out"), "use_cpu": True}, force=True
        )


def test_a_model_that_cannot_be_counted_is_no_reason_to_refuse(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "of-my-own"}', encoding="utf-8")
    recipe = load(RECIPES / "zephyr-7b-dpo.yaml", {"use_cpu": True, "model_name_or_path": str(tmp_path)})
    (warning,) = memory_check.check(recipe)
    assert warning.startswith("Memory could not be estimated: ") and "\n" not in warning


def test_an_interruption_is_not_taken_for_a_model_that_cannot_be_counted(monkeypatch):
    def interrupted(*_, **__):  # as transformers words an import that a signal ended
        guard.is_requested = True
        raise UserError("The model cannot be built from its config.json: Could not import module 'LlamaConfig'.")

    monkeypatch.setattr(memory_check.planner, "plan", interrupted)
    monkeypatch.setattr(guard, "is_requested", False)
    with pytest.raises(Interrupted, match="Nothing was trained yet"):
        memory_check.check(load(RECIPES / "demo.yaml"))


def test_force_takes_no_value(capsys):
    assert cli.main(["run", str(RECIPES / "demo.yaml"), "--force", "yes-please"]) == 2
    assert "'yes-please'" in capsys.readouterr().err


def test_a_card_that_others_use_is_said(card):
    recipe = load(RECIPES / "llama-3.1-8b-ipo.yaml")
    card.others = 0.5 * GIB
    assert memory_check.check(recipe) == []
    card.others = 10 * GIB
    (warning,) = memory_check.check(recipe)
    assert "14.0 of 24.0 GiB are free" in warning


def test_float32_weights_are_counted_on_a_cpu(monkeypatch):
    recipe = load(RECIPES / "demo.yaml", {"use_cpu": True})
    judged = []
    monkeypatch.setattr(memory_check.planner, "refuse", lambda recipe, *_: judged.append(plan(recipe)))
    memory_check.check(recipe)
    kept = {term.name: term.bytes for term in plan(recipe).terms if "(16-bit)" in term.name}
    doubled = {term.name: term.bytes for term in judged[0].terms if "(32-bit)" in term.name}
    assert kept and [2 * size for size in kept.values()] == list(doubled.values())


def test_plan_and_measurement_are_kept_and_can_be_fitted(card, tmp_path):
    recipe = load(RECIPES / "llama-3.1-8b-ipo.yaml")
    trainer = SimpleNamespace(longest_row=(2048, 8))
    card.others, card.reserved, card.peak = 0.75 * GIB, 12 * GIB, 15 * GIB
    sentence = memory_check.compare(recipe, trainer, tmp_path)
    content = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    expected = plan(recipe, choice=(2048, 8))
    assert content["measured"] == 15.75 * GIB and content["allocated"] == 15 * GIB
    assert content["plan"]["row_tokens"] == 2048 and content["plan"]["checkpointed_layers"] == 8
    assert content["relative_error"] == pytest.approx(expected.peak / content["measured"] - 1)
    assert "peak memory: 15.75 GiB measured, " in sentence
    (point,) = calibration.points([tmp_path])
    assert point.planned(calibration.fit([point])) == pytest.approx(point.measured)


def test_nothing_is_kept_without_a_gpu(tmp_path):
    recipe = load(RECIPES / "llama-3.1-8b-ipo.yaml", {"use_cpu": True})
    assert memory_check.compare(recipe, SimpleNamespace(longest_row=(1, 0)), tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory_check, "CGROUP_LIMITS", (str(limit),))
    recipe = load(RECIPES / "demo.yaml", {"use_cpu": True})
    whole = memory_check.machine(recipe).total
    limit.write_text("1073741824\n")
    assert memory_check.machine(recipe).total == GIB
    limit.write_text("max\n")
    assert memory_check.machine(recipe).total == whole
