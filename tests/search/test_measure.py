"""Measurements of a search, against those of `trl-ext eval` and against counting."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from trl_ext import cli
from trl_ext.evaluation.evaluate import evaluate_run
from trl_ext.evaluation.prompts import Prompts
from trl_ext.evaluation.rows import RowChoice
from trl_ext.evaluation.samples import Sampling
from trl_ext.judging.judge import Verdict
from trl_ext.search.measure import Labelled, Measurer
from trl_ext.search.settings import Settings
from trl_ext.support.sampling import Completion


def test_pairs_and_labelled_completions():
    pairs = Labelled([None] * 6, None)
    assert pairs.rows == 3
    assert pairs.estimate([1.0, 0.5, 0.2, 0.0, 0.5, 0.9]).value == pytest.approx((1 + 0.5 + 0) / 3)
    labelled = Labelled([None] * 4, np.array([True, False, True, False]))
    assert labelled.rows == 4 and labelled.estimate([3.0, 1.0, 0.0, 2.0]).value == pytest.approx(2 / 4)
    assert labelled.part(2).rows == pairs.part(2).rows == 2 and len(pairs.part(2).completions) == 4


def test_accuracy_and_kl_are_those_of_eval(tmp_path):
    """The same rows, prompts and random numbers: the trainer's own scoring of a loaded run, and passes of the policy in memory."""
    words = (
        "--trials 1 --max_steps 8 --per_device_train_batch_size 8 --learning_rate 2e-3 --losses dpo --measure accuracy"
    )
    small = "--samples 16 --limit 24 --max_new_tokens 8 --pruner none --quiet"
    assert cli.main(["search", "demo", "--output_dir", str(tmp_path), *words.split(), *small.split()]) == 0
    (trial,) = json.loads((tmp_path / "search.json").read_text())["trials"]
    record = evaluate_run(
        tmp_path / trial["folder"],
        RowChoice(limit=24),
        Sampling(16, 8, seed=0),
        lambda text: None,
        lambda items, n: items,
    )
    assert 0.5 < trial["value"]["value"] <= 1
    assert trial["value"] == pytest.approx(record["ranking"]["log_ratio"]["accuracy"])
    assert trial["kl"]["value"] == pytest.approx(record["sampled"]["kl"]["k1"]["value"], abs=1e-3)
    assert abs(trial["kl"]["value"]) > 0.01


def test_the_win_rate_is_against_the_answers_of_the_base(monkeypatch):
    """A judge that prefers the longer answer and is asked in one order."""
    texts = {True: ["a", "bb", "c", "ddd"], False: ["aa", "b", "c", "d"]}
    judge = SimpleNamespace(
        name="length",
        has_position=False,
        verdicts=lambda asked: [Verdict.FIRST if len(q.first) > len(q.second) else Verdict.SECOND for q in asked],
    )
    source = SimpleNamespace(name="length", open=lambda beside: judge)
    scoring = SimpleNamespace(compares=True, sources=[source], needs_adapter=False)
    prompts = Prompts(["p", "q", "r", "s"], {}, "made", [])
    measurer = Measurer(Settings("length"), prompts, scoring, None, None)
    state = {"is_policy": True}

    class Off:
        def __enter__(self):
            state["is_policy"] = False

        def __exit__(self, *error):
            state["is_policy"] = True

    monkeypatch.setattr("trl_ext.search.measure.switching.adapter_off", lambda model: Off())
    monkeypatch.setattr("trl_ext.search.measure.log_ratios", lambda model, tokenizer, found: [0.5] * len(found))
    monkeypatch.setattr(
        Measurer,
        "_sample",
        lambda self, model, n: [Completion([1], [2], t, True) for t in texts[state["is_policy"]][:n]],
    )
    found = measurer.measure(None, is_whole=True)
    assert found.value.value == pytest.approx((0 + 1 + 0.5 + 1) / 4)  # equal answers are a tie
    assert found.kl.value == 0.5 and measurer.base(None, is_whole=True).value.value == 0.5
    assert measurer.base(None, is_whole=True).kl.value == 0
    assert measurer.name == "win rate by length"
