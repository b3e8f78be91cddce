"""`trl-ext pairs`: what cannot work is one sentence, before anything is loaded where it can be known."""

import pytest

from tests import finished_runs
from tests.judging.stub_server import MODEL, fails, says, serving
from tests.pairing.command import PROMPTS, pairs, read
from trl_ext.cli import main


def test_no_pair_at_all(small_recipe, policy, tmp_path, capsys):
    rewards = tmp_path / "rewards.py"
    rewards.write_text("def same(completions, **kwargs):\n    return [1.0] * len(completions)\n")
    assert pairs(small_recipe, tmp_path / "pairs", reward=("--reward_funcs", str(rewards))) == 2
    error = capsys.readouterr().err
    assert f"None of {PROMPTS} prompts gives a pair: all scores are equal ({PROMPTS})." in error
    assert not (tmp_path / "pairs" / "train.jsonl").exists()
    # The reward function is corrected: nothing is sampled again, and its old scores are not used.
    rewards.write_text("def length(completions, **kwargs):\n    return [len(c[0]['content']) for c in completions]\n")
    words = ("--overwrite",)
    assert pairs(small_recipe, tmp_path / "pairs", *words, reward=("--reward_funcs", str(rewards))) == 0
    for row in read(tmp_path / "pairs" / "train.jsonl"):
        assert row["score_chosen"] == len(row["chosen"][0]["content"]) > row["score_rejected"]


def test_a_margin_above_all_scores(small_recipe, policy, tmp_path, capsys):
    assert pairs(small_recipe, tmp_path / "pairs", "--margin", "5") == 2
    assert (
        f"None of {PROMPTS} prompts gives a pair: " in (error := capsys.readouterr().err)
        and "no two scores differ by more than the margin" in error
        and "Give a smaller `--margin`. Completions and scores are kept." in error
    )


def test_all_completions_are_equal(small_recipe, policy, tmp_path, capsys):
    words = ("--max_new_tokens", "1", "--temperature", "0.001")
    assert pairs(small_recipe, tmp_path / "pairs", *words) == 2
    assert (
        f"None of {PROMPTS} prompts gives a pair: fewer than two different completions with a score ({PROMPTS}). Give more completions "
        "(`--num_generations`), a higher `--temperature`, or a reward that distinguishes them."
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "'1'"])
def test_a_score_that_is_no_finite_number(small_recipe, policy, tmp_path, capsys, value):
    rewards = tmp_path / "rewards.py"
    rewards.write_text(
        f"def broken(completions, **kwargs):\n    return [1.0, {value}] + [0.0] * (len(completions) - 2)\n"
    )
    assert pairs(small_recipe, tmp_path / "pairs", reward=("--reward_funcs", str(rewards))) == 2
    error = capsys.readouterr().err
    assert "The reward function broken returned" in error and "for completion 2 of 12. " in error
    assert not (tmp_path / "pairs" / "train.jsonl").exists()


def test_a_judge_that_fails(small_recipe, policy, tmp_path, capsys):
    """It fails for good after some verdicts, which are kept; or gives no verdict at all."""
    good = iter(range(8))

    def sometimes(body):
        return says("[[FIRST]]") if next(good, None) is not None else fails(401)

    template = tmp_path / "template.txt"
    template.write_text("{prompt}\n{first}\n{second}\n[[FIRST]] [[SECOND]] [[TIE]]\n")
    output = tmp_path / "pairs"
    with serving(sometimes) as stub:
        judge = (
            "--judge",
            stub.url,
            "--judge_model",
            MODEL,
            "--judge_template",
            str(template),
            "--judge_retries",
            "0",
        )
        assert pairs(small_recipe, output, reward=judge) == 2
        error = capsys.readouterr().err
        assert "asks for a key (401)" in error and "Traceback" not in error
        asked, stub.respond = {*stub.asked}, lambda body: says("[[SECOND]]")
        assert pairs(small_recipe, output, reward=judge) == 0
        assert len(stub.asked) - len({*stub.asked}) <= len(asked) - 7  # those that failed are asked again
    with serving(lambda body: says("I would rather not say.")) as stub:
        judge = ("--judge", stub.url, *judge[2:])
        assert pairs(small_recipe, tmp_path / "none", reward=judge) == 2
        error = capsys.readouterr().err
        assert f"None of {PROMPTS} prompts gives a pair: fewer than two different completions with a score" in error


def test_data_without_prompts(small_recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("trl_ext.runs.loaded.start", None)
    data = tmp_path / "empty.jsonl"
    data.write_text('{"prompt": "", "chosen": "a", "rejected": "b"}\n' * 3)
    assert pairs(small_recipe, tmp_path / "pairs", "--dataset_name", str(data)) == 2
    error = capsys.readouterr().err
    assert "none of 3 rows can be used. Dropped were 3 rows: the prompt is empty" in error and "Traceback" not in error


def test_a_reward_function_that_raises_is_called_early(small_recipe, policy, sampled, tmp_path, capsys):
    rewards = tmp_path / "rewards.py"
    rewards.write_text("def broken(completions, **kwargs):\n    return 1 / 0\n")
    assert pairs(small_recipe, tmp_path / "pairs", reward=("--reward_funcs", str(rewards))) == 2
    assert "The reward function broken failed on 12 completions with ZeroDivisionError" in capsys.readouterr().err
    assert len(sampled) == 2  # of four batches


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "There is no source of scores. Add `--reward_funcs`"),
        (
            ("--reward_funcs", "sentimen"),
            "`--reward_funcs` names sentimen, which is not a reward function: did you mean sentiment?",
        ),
        (("--reward_funcs", "sentiment", "--judge", "sentiment"), "were both given. Give one source of scores."),
        (
            ("--reward_funcs", "sentiment", "--num_generations", "1"),
            "`--num_generations` is 1: give a whole number of at least 2.",
        ),
        (
            ("--reward_funcs", "sentiment", "--temperature", "0"),
            "`--temperature` is 0. All completions of a prompt would be the same one.",
        ),
        (
            ("--reward_funcs", "sentiment", "--reward_weights", "1,2"),
            "`--reward_weights` has 2 weights for 1 reward source.",
        ),
        (
            ("--reward_funcs", "sentiment", "--threshold", "1"),
            "`--threshold` sets labels. Add `--labelled`, or remove it.",
        ),
        (
            ("--reward_funcs", "sentiment", "--labelled", "--select", "all"),
            "`--select` chooses pairs, and `--labelled`",
        ),
        (("--reward_funcs", "sentiment", "--select", "some"), "`--select` is 'some': allowed are all, best_worst."),
        (("--reward_funcs", "sentiment", "--margin", "-1"), "`--margin` is -1.0. Give a number of at least 0"),
        (("--reward_funcs", "sentiment", "--judge_model", "m"), "`--judge_model`: only a judge reads this."),
        (("--reward_funcs", "sentiment", "--prompts", "none.jsonl"), "`--prompts` is none.jsonl"),
        (("--reward_funcs", "sentiment", "--reference", "base"), "Add `--rounds`, or remove it."),
        (("--reward_funcs", "sentiment", "--adapter", "nowhere"), "`--adapter` is nowhere, which holds no adapter"),
        (("--reward_adapter", "nowhere"), "`--reward_adapter` is nowhere"),
        (
            ("--judge", "sentiment", "--comparisons", "9"),
            "the judge sentiment scores each completion alone. Remove it.",
        ),
        (
            ("--judge", "api", "--judge_model", "m", "--comparisons", "2"),
            "That does not connect 8 completions: give at least 8.",
        ),
        (("--judge", "http://127.0.0.1:9/v1", "--judge_model", "m", "--judge_retries", "0"), "cannot be reached"),
        (
            ("--rounds", "2", "--loss", "kto", "--reward_funcs", "sentiment", "--select", "all"),
            "`--select` is for pairs, and the loss of the recipe reads labelled completions.",
        ),
        (
            ("--rounds", "2", "--use_peft", "false", "--reward_funcs", "sentiment"),
            "the recipe trains all weights. Set `use_peft: true`.",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_weights(small_recipe, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trl_ext.runs.loaded.start", None)
    assert main(["pairs", str(small_recipe), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "runs" / "small-pairs" / "train.jsonl").exists()


def test_settings_of_a_recipe_that_are_not_read():
    from trl_ext.checks.pairing import notes

    assert [*notes({"top_p": 1.0, "top_k": 0, "temperature": 0.7, "use_vllm": False, "generation_kwargs": {}})] == []
    assert [*notes({"top_p": 0.9, "use_vllm": True})] == [
        "`top_p` and `use_vllm` of the recipe are not read: completions are sampled from the full distribution."
    ]


def test_a_foreign_place_is_refused(small_recipe, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "data.jsonl").write_text("{}\n")
    assert pairs(small_recipe, tmp_path / "mine") == 2
    assert "a folder with files that `trl-ext pairs` did not write." in capsys.readouterr().err
    assert pairs(small_recipe, tmp_path / "data.jsonl", "--overwrite") == 2
    assert "exists and was not written by `trl-ext pairs`." in capsys.readouterr().err
    assert (tmp_path / "data.jsonl").read_text() == "{}\n"


def test_other_recipes_and_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = finished_runs.leave(tmp_path / "run", "embedded")
    assert main(["pairs", str(run), "--reward_funcs", "sentiment", "--rounds", "2"]) == 2
    assert "`--rounds` trains a recipe" in capsys.readouterr().err
    assert main(["pairs", str(run), "--reward_funcs", "sentiment", "--loss", "ipo"]) == 2
    assert "`--loss` needs a recipe" in capsys.readouterr().err
    assert main(["pairs", "demo-ppo", "--rounds", "2"]) == 2
    assert "`--rounds` trains on the pairs that it makes, and the recipe trains PPO." in capsys.readouterr().err
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"prompt": ""}\n')
    assert main(["pairs", "demo", "--reward_funcs", "sentiment", "--prompts", str(empty)]) == 2
    assert "which has no prompts" in capsys.readouterr().err
