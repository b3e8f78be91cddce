"""What a name in `reward_funcs` stands for, judged without running it, and what it becomes."""

import sys

import pytest

from trl_ext.build import rewards
from trl_ext.checks import reward_names
from trl_ext.demo.rewards import sentiment
from trl_ext.support.errors import UserError

CODE = """\
raise_if_run = RAISE

def helper(text):
    return len(text)

def length(completions, **kwargs):
    return [float(helper(text)) for text in completions]

def _hidden(completions):
    return []
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with reward functions, where Python has not imported a `my_rewards` of another test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("my_rewards", None)
    (tmp_path / "my_rewards.py").write_text(CODE.replace("RAISE", "0"))
    (tmp_path / "two.py").write_text("def a(completions): ...\ndef b(prompts, completions): ...\n")
    (tmp_path / "narrow.py").write_text("def a(prompts, completions): ...\nasync def b(completions, *, c=1): ...\n")
    (tmp_path / "none.py").write_text("def a(texts): ...\n")
    (tmp_path / "broken.py").write_text("def a(:\n")
    (tmp_path / "scorer").mkdir()
    (tmp_path / "scorer" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    yield tmp_path
    sys.modules.pop("my_rewards", None)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("sentiment", ("known", "trl_ext.demo.rewards", "sentiment")),
        ("think_format_reward", ("known", "trl.rewards", "think_format_reward")),
        ("my_rewards.py", ("file", "my_rewards.py", None)),
        ("./some/my_rewards.py:length", ("file", "./some/my_rewards.py", "length")),
        ("package.module:function", ("module", "package.module", "function")),
        ("package.module.function", ("module", "package.module", "function")),
        ("org/name-7B", ("model", "org/name-7B", None)),
        ("scorer", ("model", "scorer", None)),
        ("sentimnt", ("nothing", "sentimnt", None)),
    ],
)
def test_names(here, name, source):
    assert tuple(reward_names.parse(name)) == source


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sentimnt", "which is not a reward function: did you mean sentiment?"),
        ("absent.py", "and that file does not exist: check the path."),
        ("two.py", "which has several functions (a, b): choose one with `two.py:function`."),
        ("none.py", "which has no function with an argument `completions`: name one"),
        ("broken.py", "which is not Python"),
        (
            "narrow.py:a",
            "where a does not accept completion_ids, log_extra, log_metric, trainer_state. A reward function is called with these",
        ),
        ("narrow.py:b", "where b does not accept completion_ids, log_extra, log_metric, prompts, trainer_state."),
        ("nowhere_at_all:f", "and no module nowhere_at_all was found in this folder or among the installed"),
        ("./empty", "which is not a folder with a config.json"),
    ],
)
def test_what_cannot_work(here, name, sentence):
    assert sentence in reward_names.problem(name)


def test_judging_runs_nothing(here):
    (here / "loud.py").write_text(CODE.replace("RAISE", "1 / 0"))
    assert reward_names.problem("loud.py") is None
    assert reward_names.statement("loud.py") == "Reward: length in loud.py. This runs the code of that file or module."
    with pytest.raises(ZeroDivisionError):
        rewards.load("loud.py")


def test_what_they_become(here):
    assert rewards.load("sentiment") is sentiment
    for name in ("my_rewards.py", "my_rewards.py:length", "my_rewards:length", "my_rewards.length"):
        assert reward_names.problem(name) is None
        function = rewards.load(name)
        assert function.__name__ == "length" and function(completions=["ab", "abc"]) == [2.0, 3.0]
    assert rewards.load("scorer") == "scorer" and rewards.load("org/name") == "org/name"


def test_a_function_that_is_not_there(here):
    with pytest.raises(UserError, match="my_rewards has no function width"):
        rewards.load("my_rewards:width")
    with pytest.raises(UserError, match=r"importing it failed: No module named 'my_rewards\.inner'"):
        rewards.load("my_rewards.inner:width")


def test_absolute_names_are_found_from_elsewhere(here, monkeypatch):
    names = [reward_names.absolute(name) for name in ("sentiment", "my_rewards.py:length", "scorer", "org/name")]
    monkeypatch.chdir("/")
    assert names == ["sentiment", f"{here}/my_rewards.py:length", f"{here}/scorer", "org/name"]
    assert rewards.load(names[1])(completions=["a"]) == [1.0]
