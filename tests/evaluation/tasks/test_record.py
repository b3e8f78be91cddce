"""What `tasks.json` keeps, and the line that sums up what training cost."""

import json

from trl_ext.evaluation.tasks.choice import TaskChoice
from trl_ext.evaluation.tasks.record import shown, summary, update, verdict


def entry(
    value: float, half: float | None, *, higher: bool | None = True, base: float = 0.5, metric: str = "acc"
) -> dict:
    limits = {} if half is None else {"low": value - half, "high": value + half}
    difference = {"value": value, "low": None, "high": None} | limits
    sides = {"base": {"value": base, "low": base, "high": base}, "tuned": {"value": base + value, "low": 0, "high": 1}}
    return {"metric": metric, "n": 100, **sides, "difference": difference, "higher_is_better": higher}


def test_a_loss_is_a_change_for_the_worse_beyond_its_interval():
    assert [verdict(entry(value, 0.02)) for value in (-0.03, -0.02, 0.0, 0.03)] == ["lost", "same", "same", "gained"]
    assert [verdict(entry(value, 2, higher=False)) for value in (-3, 3)] == ["gained", "lost"]  # perplexity
    assert verdict(entry(0.3, 0.02, higher=None)) == "changed" and verdict(entry(-0.3, None)) == "same"


def test_the_summary_names_the_tasks_that_lost_and_otherwise_how_much_could_have_been_seen():
    lost, same, wide = entry(-0.05, 0.02), entry(0.01, 0.02), entry(-0.1, 0.15)
    assert summary({"a": same, "b": wide}) == (
        "No task lost more than its interval. The widest is ± 0.150 (b): a smaller loss would not show there."
    )
    assert summary({"a": lost, "b": wide}) == "1 of 2 tasks lost more than its interval: a -0.050 ± 0.020 (acc)."
    assert summary({"a": lost, "b": lost}) == (
        "2 of 2 tasks lost more than their intervals: a -0.050 ± 0.020 (acc) and b -0.050 ± 0.020 (acc)."
    )
    assert summary({"a": same}) == (
        "The task lost no more than its interval. It is ± 0.020: a smaller loss would not show."
    )
    unknown = entry(3.0, 1.0, higher=None, base=20.0, metric="own")
    assert summary({"a": same, "b": unknown}).endswith(
        "It is unknown whether a change is a loss: b +3.00 ± 1.00 (own)."
    )


def test_numbers_have_digits_that_fit_their_size():
    assert shown(entry(-0.0512, 0.02), "difference") == "-0.051 ± 0.020"
    assert shown(entry(-1.5, 0.5, base=23.456), "difference") == "-1.50 ± 0.50"
    assert shown(entry(-1500, 500, base=123456.0), "base") == "123456"


def test_other_tasks_in_the_file_are_kept(tmp_path):
    path = tmp_path / "tasks.json"
    update(path, {"a": entry(-0.05, 0.02), "b": entry(0, 0.1)}, TaskChoice(("a", "b")))
    record = update(path, {"b": entry(0.01, 0.02)}, TaskChoice(("b",), limit=50))
    assert record == json.loads(path.read_text())
    assert record["limit"] == 50 and record["tasks"]["b"]["difference"]["high"] == 0.03
    assert record["summary"] == "1 of 2 tasks lost more than its interval: a -0.050 ± 0.020 (acc)."
    path.write_text("{broken")
    assert list(update(path, {"c": entry(0, 0.1)}, TaskChoice(("c",)))["tasks"]) == ["c"]
