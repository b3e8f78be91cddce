"""Pictures of a run: which panels are large, which line is which, and what no axis may show as a change."""

import json
import math
import random

import pytest

from trl_ext.methods import METHODS
from trl_ext.report import curves
from trl_ext.report.panels import PANELS


def figure(tmp_path, records, **options):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return curves.figure(curves.read(file), "A run", **options)


def labels(tmp_path, records):
    """Labels by panel."""
    return {
        axis.get_title(loc="left"): [text.get_text() for text in axis.get_legend().get_texts()]
        for axis in figure(tmp_path, records).axes
        if axis.get_legend()
    }


def axis_of(drawn, key):
    (found,) = [axis for axis in drawn.axes if axis.get_title(loc="left") == PANELS[key].title]
    return found


def test_training_and_held_out_are_told_apart(tmp_path):
    trained = {"loss": 0.6, "rewards/accuracies": 0.7, "rewards/chosen": 0.1, "rewards/rejected": 0.0, "score": 1.0}
    held_out = {"eval_loss": 0.6, "eval_rewards/accuracies": 0.6, "eval_score": 1.0}
    assert labels(tmp_path, [{"step": 1, **trained, "shaped_reward": 0.5}, {"step": 2, **held_out}]) == {
        "loss": ["training", "held out", "0.6: first logged, at step 1"],
        "reward accuracy": ["training", "held out"],
        "implicit reward: β × nats": ["chosen", "rejected"],
        "score and shaped reward": ["score, training", "score, held out", "shaped reward, training"],
    }


def test_without_evaluation_nothing_is_said_of_it(tmp_path):
    record = {"step": 1, "loss": 0.6, "rewards/accuracies": 0.7, "logps/chosen": -3.0, "logps/rejected": -4.0}
    assert labels(tmp_path, [record]) == {
        "loss": ["training", "0.6: first logged, at step 1"],
        "log-probability of a completion, nats": ["chosen", "rejected"],
    }


PREFERENCES = {
    "log_ratio/chosen": 0.5, "log_ratio/rejected": -1.5, "loss": 0.4, "rewards/accuracies": 0.9, "rewards/margins": 0.2,
    "logps/chosen": -20.0, "logps/rejected": -30.0, "grad_norm": 1.0, "learning_rate": 5e-7,
}  # fmt: skip
ROLLOUTS = {"score": 0.5, "kl/sequence": 1.0, "completions/mean_length": 20.0, "loss": 0.1, "entropy": 1.0}
WITHOUT_REFERENCE = {key: value for key, value in PREFERENCES.items() if not key.startswith("log_ratio")}
REWARD_MODEL = {"margin": 1.0, "accuracy": 0.8, "loss": 0.4, "grad_norm": 1.0}
SFT = {"loss": 1.0, "mean_token_accuracy": 0.6, "entropy": 1.0, "grad_norm": 1.0}


@pytest.mark.parametrize(
    ("kind", "logged", "large"),
    [
        ("paired", PREFERENCES, ["margin", "log_ratio", "loss"]),
        ("unpaired", {**PREFERENCES, "kl": 0.1}, ["margin", "log_ratio", "loss"]),
        ("paired", WITHOUT_REFERENCE, ["reward_margin", "logps", "loss"]),
        ("ppo", ROLLOUTS, ["score", "kl", "length"]),
        ("online", {**ROLLOUTS, "rewards/margins": 0.1}, ["score", "kl", "loss"]),
        ("reward", REWARD_MODEL, ["reward_model_margin", "accuracy", "loss"]),
        ("sft", SFT, ["loss", "token_accuracy", "entropy"]),
    ],
)
def test_every_kind_of_training_has_three_large_panels(kind, logged, large, tmp_path):
    drawn = figure(tmp_path, [{"step": 1, **logged}, {"step": 2, **logged}], large=METHODS[kind].large_panels)
    drawn.canvas.draw()
    areas = [(axis.get_position().width * axis.get_position().height, axis) for axis in drawn.axes]
    assert [axis.get_title(loc="left") for _, axis in areas[:3]] == [PANELS[key].title for key in large]
    assert all(small < 0.75 * min(area for area, _ in areas[:3]) for small, _ in areas[3:])


def test_the_margin_is_the_difference_of_the_log_ratios(tmp_path):
    """In nats: the reward margin in the metrics is β times as large."""
    drawn = figure(tmp_path, [{"step": 1, **PREFERENCES}])
    assert axis_of(drawn, "margin").get_lines()[0].get_xydata().tolist() == [[1, 2.0]]


def test_the_loss_before_the_first_update_is_a_line(tmp_path):
    records = [{"step": step, "loss": 0.6 - 0.1 * step} for step in range(1, 4)]
    axis = axis_of(figure(tmp_path, records, start=curves.Start(math.log(2), "policy = reference")), "loss")
    assert axis.get_lines()[1].get_ydata() == [math.log(2)] * 2
    assert axis.get_legend().get_texts()[1].get_text() == "0.6931: policy = reference"
    assert axis.get_ylim()[1] > math.log(2)


def test_float_noise_is_a_flat_line(tmp_path):
    noise = random.Random(0)
    records = [{"step": s, **{k: v + noise.gauss(0, 1e-6) for k, v in PREFERENCES.items()}} for s in range(0, 400, 10)]
    drawn = figure(tmp_path, records)
    drawn.canvas.draw()
    for axis in drawn.axes:
        low, high = axis.get_ylim()
        for line in axis.get_lines():
            values = [value for value in line.get_ydata() if low <= value <= high]
            assert len(values) == len(line.get_ydata())
            if axis.get_title(loc="left") != PANELS["learning_rate"].title:  # of 5e-7: noise of 1e-6 is a change
                assert max(values) - min(values) < 0.01 * (high - low), axis.get_title(loc="left")


def test_ranges_hold_zero_and_one_where_they_mean_something(tmp_path):
    drawn = figure(tmp_path, [{"step": s, **PREFERENCES, "grad_norm": 0.0} for s in (1, 2)])
    assert axis_of(drawn, "accuracy").get_ylim() == pytest.approx((0, 1.04))
    assert axis_of(drawn, "grad_norm").get_ylim() == pytest.approx((0, 1.04))  # all values are 0
    assert axis_of(drawn, "learning_rate").get_ylim() == pytest.approx((0, 5.2e-7))


@pytest.mark.parametrize("last", [1, 3, 80, 137, 12_345])
def test_ticks_are_round(last, tmp_path):
    drawn = figure(tmp_path, [{"step": s, **PREFERENCES} for s in (1, last)])
    drawn.canvas.draw()
    for axis in drawn.axes:
        for ticks in (axis.get_xticks(), axis.get_yticks()):
            step = ticks[1] - ticks[0]
            assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)
    shown = [text.get_text() for text in axis_of(drawn, "learning_rate").get_yticklabels()]
    assert "5e-7" in shown and axis_of(drawn, "learning_rate").yaxis.get_offset_text().get_text() == ""
    assert "−30" in [text.get_text() for text in axis_of(drawn, "logps").get_yticklabels()]


def test_few_points_have_markers(tmp_path):
    for count, expected in ((1, "o"), (14, "o"), (15, "None")):
        drawn = figure(tmp_path, [{"step": s, **PREFERENCES} for s in range(1, count + 1)])
        assert axis_of(drawn, "margin").get_lines()[0].get_marker() == expected
