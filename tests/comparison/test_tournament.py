"""`trl-ext compare --judge`: the matrix of win rates and the strengths, from answers that are prescribed."""

import json
import math
from pathlib import Path

import pytest

from tests import finished_runs
from tests.evaluation.test_judged import SHORT, keep
from trl_ext.cli import main
from trl_ext.comparison import tournament, tournament_table
from trl_ext.demo.rewards import sentiment
from trl_ext.evaluation import answers
from trl_ext.evaluation.answers import Answer
from trl_ext.judging.open_judge import Prepared
from trl_ext.judging.scores import ScoreJudge

PREPARED = Prepared("points", "function", {}, lambda beside: None)


def points(prompts, answers):
    return [float(answer) for answer in answers]


def play(scores: dict[str, list[int]], judge=None) -> dict:
    prompts = [f"p{i}" for i in range(len(next(iter(scores.values()))))]
    given = {name: [Answer(str(score), 1, True) for score in each] for name, each in scores.items()}
    return tournament.play(PREPARED, judge or ScoreJudge("points", points), prompts, given, lambda items, *_: items)


def test_a_beats_b_3_to_1_and_c_draws_with_both():
    # The games of Bradley and Terry's example: A beats B 3 : 1, A and C 1 : 1, B and C 1 : 1; here 4 prompts, C with 2 : 2.
    found = play({"base": [5, 5, 5, 0], "b": [1, 1, 1, 9], "c": [9, 9, 0, -1]})
    rate = {(game["first"], game["second"]): game["win_rate"]["value"] for game in found["games"]}
    assert rate == {("base", "b"): 3 / 4, ("base", "c"): 2 / 4, ("b", "c"): 2 / 4}
    strengths = {name: value["value"] for name, value in found["strengths"].items()}
    # By the likelihood equations, with c halfway between both by symmetry: σ(−s) + σ(−s/2) = 3/4 + 1/2 for b's strength s < 0.
    s = strengths["b"]
    assert 1 / (1 + math.exp(s)) + 1 / (1 + math.exp(s / 2)) == pytest.approx(3 / 4 + 2 / 4)
    assert strengths["base"] == 0 and strengths["c"] == pytest.approx(s / 2)
    assert found["reference"] == "base" and found["notes"] == []
    table = tournament_table.table(found)
    assert table["headings"] == ["win rate, %", "base", "c", "b", "strength, log-odds"]
    assert table["rows"][0][0] == "base" and table["rows"][0][1] == "" and table["rows"][0][3].startswith("75 ")
    assert table["rows"][2][1].startswith("25 ")


def test_the_win_rate_seen_from_the_other_side():
    found = play({"base": [0, 0, 0, 1], "run": [1, 1, 1, 0]})
    one, other = tournament.rate_of(found, "base", "run"), tournament.rate_of(found, "run", "base")
    assert (one.value, other.value) == (0.25, 0.75)
    assert (other.low, other.high) == pytest.approx((1 - one.high, 1 - one.low))
    assert tournament.rate_of(found, "run", "run") is None


def test_position_bias_over_all_pairs_and_equal_answers_are_not_asked():
    from trl_ext.judging.judge import Verdict

    class First:
        name, has_position, asked = "first", True, 0

        def verdicts(self, questions):
            self.asked += len(questions)
            return [Verdict.FIRST] * len(questions)

    judge = First()
    found = play({"base": [1, 2], "a": [1, 3], "b": [4, 5]}, judge)
    assert judge.asked == 2 * (1 + 2 + 2)
    assert found["position_bias"]["value"] == 1 and found["position_bias_to"] == {"first": 5, "second": 0}
    assert all(game["win_rate"]["value"] == 0.5 for game in found["games"])


PROMPTS = [f"Review the {thing}." for thing in ("hotel", "bridge", "garden", "museum")]
GOOD, MIXED, BAD = "It was lovely.", "It was awful. It was lovely.", "It was awful."


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs with answers that were sampled before: one that is always good, one that is better than the base on half of the prompts."""
    monkeypatch.chdir(tmp_path)
    for name, of_run in (("best", [GOOD] * 4), ("half", [MIXED, MIXED, BAD, BAD])):
        run = finished_runs.leave(tmp_path / name, "embedded", max_length=256)
        keep(
            run,
            {
                p: (BAD + " It rained." * (i == 3), text)
                for i, (p, text) in enumerate(zip(PROMPTS, of_run, strict=True))
            },
        )
    rows = [{"prompt": [{"role": "user", "content": prompt}]} for prompt in PROMPTS]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_run_that_wins_everything_is_said_to_have_no_finite_strength(runs, capsys):
    words = ["--judge", "sentiment", "--prompts", "prompts.jsonl", "--limit", "2", "--samples", "4", *SHORT]
    assert main(["compare", "best", "half", *words, "--output_dir", "out"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    page = Path("out/report.html").read_text()
    # best wins 4 of 4 against both. half against base: 2 wins, 2 ties.
    found = json.loads(Path("out/judged-sentiment.json").read_text())
    rates = {(game["first"], game["second"]): game["win_rate"]["value"] for game in found["games"]}
    assert rates == {("base", "best"): 0, ("base", "half"): 0.25, ("best", "half"): 1}
    assert found["prompts"] == {"source": "prompts-train", "n": 4} and found["names"] == ["base", "best", "half"]
    assert found["strengths"]["best"] is None
    assert found["strengths"]["half"]["value"] == pytest.approx(math.log(3))  # 3 : 1 in half wins
    low = 4 / (4 + 1.96**2)  # by Wilson for 4 of 4
    note = "best won every game. best has no finite strength against base."
    for text in (f"100 ({100 * low:.0f}–100)", "+1.10 ± ", "not finite", note):
        assert text in printed, text
    for text in ("Win rates and strengths", "strength, log-odds", "not finite", *note.split(". ")):
        assert text in page, text


def test_the_pages_of_the_runs_are_written_where_there_is_none_and_linked(runs):
    words = ["--judge", "sentiment", "--prompts", "prompts.jsonl", "--limit", "2", "--samples", "4", *SHORT]
    Path("half/report.html").write_text("kept")
    Path("half.yaml").write_text("model_name_or_path: embedded\ndataset_name: embedded\noutput_dir: half\n")
    resolved = Path("half/recipe.resolved.yaml")
    resolved.write_text(resolved.read_text().replace("# small.yaml", "# half.yaml"))
    assert main(["compare", "best", "half.yaml", *words, "--output_dir", "out"]) == 0  # the recipe's latest run
    assert "<h1>best</h1>" in Path("best/report.html").read_text() and Path("half/report.html").read_text() == "kept"
    page = Path("out/report.html").read_text()
    assert all(f'<a href="../{name}/report.html">{name}</a>' in page for name in ("best", "half"))


def test_runs_whose_data_are_prompts_are_compared_by_the_judge_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": [{"role": "user", "content": f"{prompt} {i}"}]} for prompt in PROMPTS for i in range(5)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "trainer": "ppo",
        "reward_funcs": ["sentiment"],
        "dataset_name": str(tmp_path / "prompts.jsonl"),
        "eval_size": 2,
    }
    for name, seed in (("one", 0), ("other", 1)):
        finished_runs.leave(tmp_path / name, "embedded", scale=0.3, seed=seed, **settings)
    assert main(["compare", "one", "other", "--output_dir", "out", *SHORT]) == 2
    assert "has no preferences: choose pairs with `--dataset`" in " ".join(capsys.readouterr().err.split())
    assert main(["compare", "one", "other", "--judge", "sentiment", "--output_dir", "out", *SHORT]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Only the judge compares these runs" in printed and "strength, log-odds" in printed
    found = json.loads(Path("out/judged-sentiment.json").read_text())
    assert found["prompts"]["n"] == 2 and len(found["games"]) == 3
    page = Path("out/report.html").read_text()
    assert "Win rates and strengths" in page and "accuracy on held-out" not in page
    assert found["prompts"]["source"] == "prompts-held-out" and "Completions of the same prompts" in page


def test_a_grid_is_trained_and_judged(tmp_path, monkeypatch, capsys):
    """End to end on the embedded model; the same command again trains, samples and asks nothing."""
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "cache"))
    recipe = str(Path("recipes/demo.yaml").resolve())
    monkeypatch.chdir(tmp_path)
    words = ["compare", recipe, "--losses", "dpo,ipo", "--max_steps", "2", "--per_device_train_batch_size", "4"]
    words += ["--max_train_samples", "16", "--save_strategy", "no", "--disable_tqdm", "true", "--limit", "8", *SHORT]
    words += ["--judge", "sentiment", "--samples", "6", "--output_dir", "out"]
    assert main(words) == 0
    found = json.loads(Path("out/judged-sentiment.json").read_text())
    assert found["names"] == ["base", "dpo", "ipo"] and found["prompts"]["n"] == 6
    # Counted again from the answers that are on disk, by the true reward.
    kept = {
        name: [
            json.loads(line)
            for line in next(Path("out", name).glob("samples-*.jsonl")).read_text().split("\n")
            if line
        ]
        for name in ("dpo", "ipo")
    }
    assert [each["base"] for each in kept["dpo"]] == [each["base"] for each in kept["ipo"]]
    texts = {"base": [e["base"] for e in kept["dpo"]]} | {
        name: [e["tuned"] for e in each] for name, each in kept.items()
    }
    for game in found["games"]:
        pairs = [
            sentiment(completions=list(pair)) for pair in zip(texts[game["first"]], texts[game["second"]], strict=True)
        ]
        wins, ties = sum(a > b for a, b in pairs), sum(a == b for a, b in pairs)
        assert (game["wins"], game["ties"], game["win_rate"]["value"]) == (
            wins,
            ties,
            pytest.approx((wins + ties / 2) / 6),
        )
    assert "Win rates and strengths" in Path("out/report.html").read_text()
    before = {path: path.read_bytes() for path in Path("out").rglob("*.safetensors")}
    monkeypatch.setattr(answers, "sample", None)
    capsys.readouterr()
    assert main(words) == 0 and capsys.readouterr().out.count("already finished") == 2
    assert {path: path.read_bytes() for path in before} == before


def test_a_judge_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "demo", "--losses", "dpo,ipo", "--output_dir", "out"]
    assert main([*words, "--judge", "sentimant"]) == 2
    assert "`--judge` is sentimant, which is not a judge." in capsys.readouterr().err.replace("\n", " ")
    assert main([*words, "--judge_model", "m"]) == 2
    assert "`--judge_model` needs a judge." in capsys.readouterr().err
    assert not list(Path("out").glob("*/adapter_config.json"))
