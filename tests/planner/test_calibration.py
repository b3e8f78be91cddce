"""Fitted coefficients, against measurements made up from known ones."""

import json
from dataclasses import replace

import pytest

from trl_ext.errors import UserError
from trl_ext.planner import calibration, plan
from trl_ext.planner.fitting import Overhead
from trl_ext.planner.memory import GIB


@pytest.fixture
def runs(shipped, tmp_path):
    """Run directories whose measured peaks follow an allocator of 1.15 and a context of 0.9 GiB."""

    def make(*choices):
        for number, choice in enumerate(choices):
            planned = plan(shipped("qwen3-1.7b-hh-16gb"), choice=choice)
            live = sum(t.bytes for t in planned.terms if t.name not in ("allocator", "CUDA context"))
            static = planned.static - 0.6 * GIB
            measured = static + 1.15 * (live - static) + 0.9 * GIB
            folder = tmp_path / f"run-{number}"
            folder.mkdir()
            record = calibration.record(planned, measured)
            (folder / "plan.json").write_text(json.dumps(record), encoding="utf-8")
            yield folder

    return lambda *choices: list(make(*choices))


def test_known_coefficients_come_back(runs):
    overhead, points = calibration.fit(runs((1024, 28), (2048, 14), (4096, 0)))
    assert overhead.allocator == pytest.approx(1.15) and overhead.context == pytest.approx(0.9 * GIB)
    assert all(planned == pytest.approx(measured) for _, planned, measured in points)


def test_one_run_fits_the_context_alone(runs):
    overhead, points = calibration.fit(runs((2048, 14)))
    assert overhead.allocator == Overhead().allocator
    assert points[0][1] == pytest.approx(points[0][2])


def test_later_plans_use_what_was_kept(shipped):
    before = plan(shipped("qwen3-1.7b-hh-16gb"), choice=(2048, 14))
    calibration.save(replace(Overhead(), context=1.6 * GIB))
    assert plan(shipped("qwen3-1.7b-hh-16gb"), choice=(2048, 14)).peak - before.peak == pytest.approx(GIB)


def test_a_record_compares_plan_and_measurement(shipped):
    planned = plan(shipped("qwen3-1.7b-hh-16gb"))
    record = calibration.record(planned, planned.peak / 1.1)
    assert record["relative_error"] == pytest.approx(0.1)
    assert json.loads(json.dumps(record))["plan"]["terms"][0].keys() == {"name", "bytes", "is_static"}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"plan": {"terms": 3}}', '{"plan": {"terms": []}, "measured": "x"}']
)
def test_files_without_a_measurement(tmp_path, content):
    (tmp_path / "plan.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="no plan with a measurement"):
        calibration.fit([tmp_path])


def test_a_folder_without_a_plan(tmp_path):
    with pytest.raises(UserError, match=r"holds no plan\.json"):
        calibration.fit([tmp_path])


def test_broken_coefficients_say_what_to_remove():
    calibration.save(Overhead())
    calibration.path().write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="remove it"):
        calibration.load()
