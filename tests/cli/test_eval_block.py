"""`trl-ext eval RUN` repeats the evaluation of the run's recipe; flags come first."""

import argparse

import pytest

from trl_ext.checks.evaluation_parts import READS
from trl_ext.cli import eval, eval_block, parsers
from trl_ext.recipe import schema
from trl_ext.support.errors import UserError

BLOCK = {"judge": "api", "judge_model": "m", "prompts": "p.jsonl", "samples": 8, "tasks": "arc_easy", "limit": 5}


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({}, BLOCK),
        ({"samples": 4}, {**BLOCK, "samples": 4}),
        ({"judge_model": "n"}, {**BLOCK, "judge_model": "n"}),
        ({"judge": ["sentiment"]}, {"judge": ["sentiment"], "prompts": "p.jsonl", "samples": 8}),
        ({"judge": ["api"]}, {"judge": ["api"], "judge_model": "m", "prompts": "p.jsonl", "samples": 8}),
        ({"tasks": "own"}, {"tasks": "own", "limit": 5}),
        ({"tasks": "own", "limit": 2}, {"tasks": "own", "limit": 2}),
        ({"tasks": "own", "judge": ["sentiment"]}, {
            "judge": ["sentiment"], "tasks": "own", "prompts": "p.jsonl", "samples": 8, "limit": 5,
        }),
        ({"dataset": "d", "split": "test"}, {**{k: v for k, v in BLOCK.items() if k != "prompts"}, "dataset": "d", "split": "test"}),
        ({"reward_funcs": "f", "judge": ["sentiment"]}, {
            "judge": ["sentiment"], "prompts": "p.jsonl", "samples": 8, "reward_funcs": "f",  # refused: no judge reads it
        }),
    ],
)  # fmt: skip
def test_flags_and_the_block(flags, found):
    assert eval_block.settle(BLOCK, flags) == found


def test_every_entry_of_the_block_is_a_flag_and_read_by_a_part():
    entries = set(schema.fields("EvaluationKeys"))
    parser = parsers()[1]["eval"]
    assert entries == {key for keys in READS.values() for key in keys}
    assert {f"--{key}" for key in entries} <= set(parser._option_string_actions)


def asked(monkeypatch, folder, block, *words):
    """The arguments of each part that is evaluated."""
    directory = folder / "run"
    directory.mkdir(exist_ok=True)
    (directory / "recipe.resolved.yaml").write_text(
        f"# small.yaml with everything merged.\nmodel_name_or_path: embedded\ndataset_name: embedded\nloss: dpo\n{block}"
    )
    parts = []
    monkeypatch.setattr(eval, "_evaluate_part", lambda args: parts.append(args) or 0)
    args = parsers()[1]["eval"].parse([str(directory), *words])
    assert eval.run(args) == 0
    return parts


def test_each_part_is_a_command_of_its_own(tmp_path, monkeypatch, capsys):
    block = "evaluation: {judge: sentiment, samples: 8, tasks: [arc_easy], limit: 5, max_new_tokens: 16}\n"
    judged, tasks = asked(monkeypatch, tmp_path, block)
    assert (judged.judge, judged.samples, judged.max_new_tokens, judged.tasks, judged.limit) == (
        ["sentiment"],
        8,
        16,
        None,
        None,
    )
    assert (tasks.tasks, tasks.limit, tasks.judge, tasks.samples, tasks.max_new_tokens) == (
        ["arc_easy"],
        5,
        None,
        256,
        None,
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert printed == (
        "As `evaluation` in the recipe of the run says: judge: sentiment, samples: 8, tasks: arc_easy, limit: 5, max_new_tokens: 16."
    )
    assert (tmp_path / "run" / "evaluation.json").exists()


def test_a_flag_with_the_value_of_the_default_counts(tmp_path, monkeypatch):
    (only,) = asked(monkeypatch, tmp_path, "evaluation: {judge: sentiment, samples: 8}\n", "--samples", "256")
    assert only.samples == 256 and not (tmp_path / "run" / "evaluation.json").exists()


def test_preferences(tmp_path, monkeypatch):
    (only,) = asked(monkeypatch, tmp_path, "evaluation: {samples: 8, limit: 3, reward_funcs: [sentiment]}\n")
    assert (only.judge, only.tasks, only.samples, only.limit, only.reward_funcs) == (None, None, 8, 3, ["sentiment"])


@pytest.mark.parametrize(("block", "words"), [("", ()), ("evaluation: {judge: sentiment}\n", ("--no_recipe",))])
def test_without_a_block(block, words, tmp_path, monkeypatch, capsys):
    (only,) = asked(monkeypatch, tmp_path, block, *words)
    assert (only.judge, only.samples, only.seed) == (None, 256, 0) and capsys.readouterr().out == ""


def test_what_cannot_work_names_the_flag_or_the_recipe(tmp_path, monkeypatch):
    with pytest.raises(UserError) as caught:
        asked(monkeypatch, tmp_path, "evaluation: {judge: sentiment, prompts: gone.jsonl}\n", "--limit", "3")
    first, second = sorted(caught.value.problems)
    assert first.startswith("`--limit` has no effect with `judge`.")
    assert second.startswith(f"`evaluation.prompts` in the recipe of {tmp_path / 'run'} is gone.jsonl, and ")
    (tmp_path / "other.jsonl").write_text('{"prompt": "a"}\n')
    block = "evaluation: {judge: sentiment, prompts: gone.jsonl}\n"
    (only,) = asked(monkeypatch, tmp_path, block, "--prompts", str(tmp_path / "other.jsonl"))
    assert only.prompts == str(tmp_path / "other.jsonl")


def test_one_file_for_two_records(tmp_path, monkeypatch):
    block = "evaluation: {judge: sentiment, tasks: arc_easy}\n"
    for words in (["--json"], ["--output", "x.json"]):
        with pytest.raises(UserError, match="Choose one with `--judge` or `--tasks`"):
            asked(monkeypatch, tmp_path, block, *words)
    (only,) = asked(monkeypatch, tmp_path, block, "--judge", "sentiment", "--json")
    assert only.judge == ["sentiment"]


def test_an_entry_that_does_not_exist(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"recipe.resolved.yaml: `evaluation.jugde` \(line 5\) is not a setting of an evaluation"
    ):
        asked(monkeypatch, tmp_path, "evaluation: {jugde: sentiment}\n")


def test_names_of_flags_that_were_given():
    args = parsers()[1]["eval"].parse(["run", "--samples=256", "--judge-model", "m", "--quiet"])
    assert args.given == {"samples", "judge_model", "quiet"} and isinstance(args, argparse.Namespace)
