"""The record of a finished run."""

import json

from tests.finished_runs import leave
from trl_ext.comparison import evaluator


def test_of_a_finished_run_the_seconds_are_those_of_its_last_log(tmp_path):
    run = leave(tmp_path / "run", "embedded")
    logged = [{"step": 1, "seconds": 4.5, "loss": 1.0}, {"step": 2, "seconds": 9.5, "loss": 0.9}]
    lines = [*logged, {"step": 2, "warning": "fluency", "text": "A symptom."}]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    found = evaluator.Evaluator(None, None, {}, print, None).evaluate_finished("dpo", run)
    assert found["seconds"] == 9.5 and found["peak_bytes"] is found["peak_of"] is None
