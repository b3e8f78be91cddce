"""The block `evaluation`: names and types of its entries, each reported with its line."""

import pytest

from tests.recipe.helpers import load, problem, problems, write
from trl_ext import recipe


def evaluation(folder, text, **flags):
    return load(folder, f"loss: dpo\nuse_peft: true\n{text}", **flags).evaluation


def test_entries_are_converted_to_their_types(tmp_path):
    text = 'evaluation: {samples: "8", limit: 4.0, seed: "3", reward_funcs: sentiment, split: 1}\n'
    found = {"samples": 8, "limit": 4, "seed": 3, "reward_funcs": ["sentiment"]}
    assert evaluation(tmp_path, text.replace(", split: 1", "")) == found
    assert "`evaluation.split` (line 5) is 1: give text or null" in problem(
        tmp_path, f"loss: dpo\nuse_peft: true\n{text}"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", None),
        ("evaluation: false\n", None),
        ("evaluation:\n", None),
        ("evaluation: true\n", {}),
        ("evaluation: {}\n", {}),
    ],
)
def test_off_by_default(text, found, tmp_path):
    assert evaluation(tmp_path, text) == found


def test_flags(tmp_path):
    text = "evaluation: {judge: sentiment, samples: 8}\n"
    assert evaluation(tmp_path, text, evaluation=False) is None
    assert evaluation(tmp_path, text, no_evaluation=True) is None
    assert evaluation(tmp_path, text, evaluation={"samples": 4}) == {"samples": 4}
    assert evaluation(tmp_path, text, **{"evaluation.samples": 4}) == {"judge": "sentiment", "samples": 4}
    assert evaluation(tmp_path, "evaluation: false\n", **{"evaluation.samples": 4}) == {"samples": 4}
    assert evaluation(tmp_path, "", **{"evaluation.judge": "sentiment"}) == {"judge": "sentiment"}


def test_every_unknown_entry_and_wrong_type_with_its_line(tmp_path):
    text = "loss: dpo\nevaluation:\n  judge: sentiment\n  smaples: 3\n  model: m\n  seed: many\n  zzz: 1\n"
    assert problems(tmp_path, text)[:3] == [
        "`evaluation.smaples` (line 6) is not a setting of an evaluation: did you mean `samples`?",
        "`evaluation.model` (line 7) is not a setting of an evaluation: did you mean `judge_model`?",
        "`evaluation.seed` (line 8) is 'many': give a whole number or null.",
    ]
    assert problems(tmp_path, text)[3].startswith(
        "`evaluation.zzz` (line 9) is not a setting of an evaluation: allowed are judge, "
    )


def test_places_of_flags_and_of_variants(tmp_path):
    said = "is not a setting of an evaluation: did you mean `samples`?"
    assert problem(tmp_path, "loss: dpo\n", **{"evaluation.smaples": 3}) == f"`--evaluation.smaples` {said}"
    assert problem(tmp_path, "loss: dpo\n", evaluation={"smaples": 3}) == f"`smaples` in `--evaluation` {said}"
    text = "variants:\n  ipo:\n    evaluation:\n      smaples: 3\n"
    assert problem(tmp_path, text, loss="ipo") == f"`variants.ipo.evaluation.smaples` (line 6) {said}"


@pytest.mark.parametrize(
    "name", ["api_key", "judge_api_key", "judge_key", "openai_api_key", "apikey", "judge_token", "key"]
)
def test_a_key_is_refused_without_showing_it(name, tmp_path):
    said = problem(tmp_path, f"loss: dpo\nevaluation: {{judge: sentiment, {name}: sk-1234}}\n")
    assert said.startswith(f"`evaluation.{name}` (line 4) cannot be set: ") and said.endswith(
        "OPENAI_API_KEY to the key."
    )
    assert "1234" not in said


def test_a_value_of_another_kind(tmp_path):
    assert problem(tmp_path, "loss: dpo\nevaluation: sentiment\n") == (
        "`evaluation` (line 4) is 'sentiment': give true or false or a mapping or null."
    )


def test_training_does_not_depend_on_it(tmp_path):
    plain = load(tmp_path, "loss: dpo\nuse_peft: true\n")
    evaluated = load(tmp_path, "loss: dpo\nuse_peft: true\nevaluation: {judge: sentiment}\n")
    assert evaluated.digest() == plain.digest() and evaluated.sections() == plain.sections()


def test_the_resolved_recipe_holds_it(tmp_path):
    read = load(tmp_path, "loss: dpo\nuse_peft: true\nevaluation: {judge: sentiment}\n", **{"evaluation.samples": 8})
    read.dump(tmp_path / "recipe.resolved.yaml")
    assert recipe.load(tmp_path / "recipe.resolved.yaml").evaluation == {"judge": "sentiment", "samples": 8}


@pytest.mark.parametrize("kind", ["sft", "ppo", "online"])
def test_recipes_of_every_policy_may_hold_it(kind, tmp_path):
    rewards = "" if kind == "sft" else "reward_funcs: [sentiment]\n"
    path = write(tmp_path, f"use_peft: true\ntrainer: {kind}\n{rewards}evaluation: {{judge: sentiment}}\n")
    assert recipe.load(path).evaluation == {"judge": "sentiment"}
