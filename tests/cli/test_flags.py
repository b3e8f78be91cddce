"""What the words after a recipe mean."""

import pytest

from trl_ext import cli
from trl_ext.cli.parser import Parser
from trl_ext.cli.recipe_keys import add_recipe
from trl_ext.support.errors import UserError


def keys(words: list[str]) -> dict:
    """Keys of a recipe from the words after it."""
    parser = Parser(prog="trl-ext run")
    add_recipe(parser)
    return parser.parse(["x.yaml", *words]).recipe_keys


@pytest.mark.parametrize(
    "words",
    [
        ["--losses", "dpo,ipo", "x.yaml", "--max_steps", "3"],
        ["x.yaml", "--losses", "dpo,ipo", "--max_steps", "3"],
        ["x.yaml", "--max_steps", "3", "--losses", "dpo,ipo"],
        ["x.yaml", "--max-steps=3", "--losses=dpo,ipo"],
    ],
)
def test_flags_of_a_verb_may_stand_anywhere(words):
    args = cli.parsers()[1]["compare"].parse(words)
    assert (args.what, args.losses, args.recipe_keys) == (["x.yaml"], "dpo,ipo", {"max_steps": 3})
    assert args.limit == 2000


@pytest.mark.parametrize(
    ("words", "losses"),
    [
        (["--losses", "dpo", "ipo"], ["dpo", "ipo"]),
        (["--betas", "{dpo:", "[0.1,", "0.3]}"], None),
    ],
)
def test_lists_and_mappings_of_a_verbs_own_flags(words, losses):
    args = cli.parsers()[1]["compare"].parse(["x.yaml", *words])
    assert args.losses == losses and args.betas == (None if losses else {"dpo": [0.1, 0.3]})


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--loss", "ipo"], {"loss": "ipo"}),
        (["--learning_rate=5e-6"], {"learning_rate": 5e-6}),
        (["--learning-rate", "5E-6"], {"learning_rate": 5e-6}),
        (["--bf16"], {"bf16": True}),
        (["--bf16", "--beta", "0.1"], {"bf16": True, "beta": 0.1}),
        (["--bf16", "false"], {"bf16": False}),
        (["--max_steps", "-1"], {"max_steps": -1}),
        (["--learning_rate", "-1e-5"], {"learning_rate": -1e-5}),
        (["--no_bf16"], {"no_bf16": True}),
        (["--run_name="], {"run_name": None}),
        (["--max_length", "null"], {"max_length": None}),
        (["--lora_target_modules", "q_proj", "v_proj"], {"lora_target_modules": ["q_proj", "v_proj"]}),
        (["--lora_target_modules", "[q_proj, v_proj]"], {"lora_target_modules": ["q_proj", "v_proj"]}),
        (["--loss", "{dpo: 1, sft: 0.1}"], {"loss": {"dpo": 1, "sft": 0.1}}),
        (["--loss", "{dpo:", "1,", "sft:", "0.1}"], {"loss": {"dpo": 1, "sft": 0.1}}),
        (["--run_name", "[unclosed"], {"run_name": "[unclosed"}),
        (["--run_name=a=b"], {"run_name": "a=b"}),
        (["--beta", "1", "--beta", "2"], {"beta": 2}),
    ],
)
def test_flags(words, values):
    assert keys(words) == values


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-loss", "ipo"], ["A flag begins with two dashes: `--loss`, not '-loss'."]),
        (["loss=ipo"], ["A flag begins with two dashes: `--loss=ipo`, not 'loss=ipo'."]),
    ],
)
def test_dashes_that_are_missing(words, said):
    with pytest.raises(UserError) as caught:
        keys(words)
    assert caught.value.problems == said


@pytest.mark.parametrize(
    ("word", "missing"),
    [
        ("--learning_rate", "a number"),
        ("--learning-rate", "a number"),
        ("--beta", "a number greater than 0"),
        ("--loss", "one"),
        ("--max_steps", "a whole number"),
    ],
)
def test_a_flag_without_its_value(word, missing):
    with pytest.raises(UserError) as caught:
        keys([word, "--bf16"])
    assert caught.value.problems == [f"`{word.replace('-r', '_r')}` has no value: give {missing}."]


@pytest.mark.parametrize("word", ["--average", "--resume_from_checkpoint", "--force", "--packing", "--rows"])
def test_flags_that_mean_something_alone(word):
    assert keys([word]) == {word[2:]: True}


def test_stray_words_are_all_named():
    with pytest.raises(UserError) as caught:
        keys(["x", "--beta", "1", "-b", "--", "y"])
    assert [problem.split()[0] for problem in caught.value.problems] == ["'x'", "'-b'", "'--'", "'y'"]
