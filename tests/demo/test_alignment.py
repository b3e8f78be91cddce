"""The demo does what it promises with each of the four main losses: more reward, and still sentences of the grammar."""

import json
from pathlib import Path

import pytest

from trl_ext.cli import main

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
