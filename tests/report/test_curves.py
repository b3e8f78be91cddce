"""Pictures of a run: which line is which."""

import json

from matplotlib.figure import Figure

from trl_ext.report import curves


def labels(tmp_path, monkeypatch, records):
    """Labels by panel."""
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    curves.draw(file, tmp_path / "x.png", "A run")
    return {
        axis.get_title(loc="left"): [text.get_text() for text in axis.get_legend().get_texts()]
        for axis in drawn[0].axes
        if axis.get_legend()
    }


def test_training_and_held_out_are_told_apart(tmp_path, monkeypatch):
    trained = {"loss": 0.6, "rewards/accuracies": 0.7, "rewards/chosen": 0.1, "rewards/rejected": 0.0, "score": 1.0}
    held_out = {"eval_loss": 0.6, "eval_rewards/accuracies": 0.6, "eval_score": 1.0}
    found = labels(tmp_path, monkeypatch, [{"step": 1, **trained, "shaped_reward": 0.5}, {"step": 2, **held_out}])
    assert found == {
        "loss": ["training", "held out"],
        "reward accuracy": ["training", "held out"],
        "implicit reward": ["chosen", "rejected"],
        "score and shaped reward": ["score, training", "shaped reward, training", "score, held out"],
    }


def test_without_evaluation_nothing_is_said_of_it(tmp_path, monkeypatch):
    record = {"step": 1, "loss": 0.6, "rewards/accuracies": 0.7, "logps/chosen": -3.0, "logps/rejected": -4.0}
    assert labels(tmp_path, monkeypatch, [record]) == {"log-probability of the completion": ["chosen", "rejected"]}
