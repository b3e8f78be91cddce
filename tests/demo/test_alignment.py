"""The demo does what it promises with each of the four main losses: more reward, and still sentences of the grammar."""

import json
from pathlib import Path

import pytest

from trl_ext.cli import main
from trl_ext.demo import grammar

RECIPE = Path(__file__).parents[2] / "recipes" / "demo.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dpo", "ipo", "simpo", "kto"])
def test_the_true_reward_rises_and_the_language_stays(loss, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(RECIPE), "--loss", loss, "--output_dir", "run", "--disable_tqdm", "true"]) == 0
    found = json.loads(Path("run/eval-embedded-test.json").read_text())["sampled"]
    reward, fluency = found["scores"]["true reward"], found["scores"]["sentences that parse"]
    assert 0.4 < reward["base"]["value"] < 0.6 and fluency["base"]["value"] > 0.97
    assert reward["tuned"]["value"] >= 0.75
    assert fluency["tuned"]["value"] >= 0.90
    assert 0 < found["kl"]["k1"]["value"] < 10
    assert "true reward" in capsys.readouterr().out
    if loss == "dpo":
        assert main(["eval", "run", "--judge", "sentiment", "--max_new_tokens", "128"]) == 0
        check_win_rate(json.loads(Path("run/judged-sentiment.json").read_text()), Path("run"))


def check_win_rate(found: dict, run: Path) -> None:
    """The run wins against its base by the true reward. Where the base has the largest reward, 1, a tie is the best result."""
    (lines,) = (path.read_text(encoding="utf-8").split("\n") for path in run.glob("samples-*.jsonl"))
    rewards = [[grammar.reward(json.loads(line)[who]) for who in ("base", "tuned")] for line in lines if line]
    assert len(rewards) == found["prompts"]["n"] == 200
    scores = [(tuned > base) + 0.5 * (tuned == base) for base, tuned in rewards]
    rate, decided = found["win_rate"], found["decided"]
    assert rate["value"] == pytest.approx(sum(scores) / len(scores))
    assert 0.5 < rate["low"] < rate["value"] < rate["high"] < 1
    assert decided["value"] >= 0.9 and decided["low"] > 0.9 and found["wins"] > 100
    beatable = [score for score, (base, _) in zip(scores, rewards, strict=True) if base < 1]
    assert sum(beatable) / len(beatable) >= 0.9
    assert rate["value"] >= 0.9 * (
        1 - 0.5 * (len(rewards) - len(beatable)) / len(rewards)
    )  # of the largest that is possible
