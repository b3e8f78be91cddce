"""What reward functions return and raise, and what is said about it."""

import functools
import math
import traceback

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.trainers.ppo.helpers import build, config, count_the
from trl_ext.support.errors import UserError
from trl_ext.trainers.rollout.reward_functions import checked

FOUR = {"prompts": ["a"] * 4, "completions": ["b"] * 4, "completion_ids": [[1]] * 4}


def returning(value):
    def my_reward(completions, **kwargs):
        return value

    return my_reward


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.5, None, True],
        (1.0, 2.5, None, 1.0),
        iter([1, 2.5, None, 1]),
        [np.float32(1), np.int64(2) + 0.5, None, np.True_],
        [torch.tensor(1), torch.tensor(2.5), None, torch.tensor(1.0)],
    ],
    ids=["list", "tuple", "iterator", "numpy", "torch"],
)
def test_numbers_and_none_are_passed_on(value):
    assert checked(returning(value))(**FOUR) == [1.0, 2.5, None, 1.0]


def test_arrays_are_numbers_too():
    for value in (np.arange(4.0), torch.arange(4)):
        assert checked(returning(value))(**FOUR) == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([1.0, 2.0, 3.0], "returned 3 rewards for 4 completions"),
        ([], "returned 0 rewards for 4 completions"),
        (1.0, "returned 1.0 for 4 completions"),
        (None, "returned None for 4 completions"),
        ("good", "returned 'good' for 4 completions"),
        ({"a": 1}, "returned {'a': 1} for 4 completions"),
        (torch.tensor(1.0), "returned tensor(1.) for 4 completions"),
        ([1.0, "0.5", 1.0, 1.0], "returned '0.5' for completion 2 of 4"),
        ([1.0, 1.0, [0.5], 1.0], "returned [0.5] for completion 3 of 4"),
        (torch.ones(4, 1), "returned tensor([1.]) for completion 1 of 4"),
        ([1.0, 1.0, 1.0, math.nan], "returned nan for completion 4 of 4"),
        ([math.inf, 1.0, 1.0, 1.0], "returned inf for completion 1 of 4"),
        ([{"score": 1.0, "why": "it is polite, and it ends"}] * 4, "returned a dict for completion 1 of 4"),
        ([1.0, 10**400, 1.0, 1.0], "returned an int for completion 2 of 4"),
        ({0.5, 1.5, 2.5, 3.5}, "returned {0.5, 1.5, 2.5, 3.5} for 4 completions"),  # in no order
    ],
)
def test_anything_else_is_one_sentence(value, what):
    with pytest.raises(UserError) as raised:
        checked(returning(value))(**FOUR)
    assert str(raised.value) == (
        f"The reward function my_reward {what}. It must return a list with one number per completion, or None for "
        "completions it does not apply to."
    )


def test_a_number_beyond_float32_is_not_taken_for_infinity():
    with pytest.raises(
        UserError, match=r"returned -1e\+39 for completion 1 of 4\. .* whose largest number is 3\.4e\+38\."
    ):
        checked(returning([-1e39, 1.0, 1.0, 1.0]))(**FOUR)
    assert checked(returning([-1e38, 1.0, 1.0, 1.0]))(**FOUR)[0] == -1e38


def generates(completions, **kwargs):
    for _ in completions:
        yield helper("")


def divides(completions, **kwargs):
    return [helper(text) for text in completions]


def helper(text):
    return 1 / 0  # the line that is to be named


@pytest.mark.parametrize("function", [divides, generates])
def test_what_it_raises_is_said_with_its_place_and_stays_chained(function):
    with pytest.raises(UserError) as raised:
        checked(function)(**FOUR)
    line = helper.__code__.co_firstlineno + 1
    assert str(raised.value) == (
        f"The reward function {function.__name__} failed on 4 completions with ZeroDivisionError: division by zero, in line "
        f"{line} of {__file__}."
    )
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert "the line that is to be named" in "".join(traceback.format_exception(raised.value))


def test_a_function_that_takes_too_little_is_told_what_it_gets():
    def narrow(completions):
        return [0.0] * len(completions)

    with pytest.raises(UserError, match=r"It is called with prompts, completions, completion_ids: add \*\*kwargs"):
        checked(narrow)(**FOUR)


async def slowly(completions, weight=1.0, **kwargs):
    if weight is None:
        raise KeyError("no such judge")
    return [weight] * (len(completions) - (weight == 3.0))


class Judge:
    def __call__(self, completions, **kwargs):
        return [0.5] * len(completions)


def test_every_form_that_trl_takes_keeps_its_name_and_is_looked_at(model, tmp_path):
    sources = [count_the, functools.partial(slowly, weight=2.0), Judge()]
    trainer = build(model, config(tmp_path, max_steps=1), reward_funcs=sources)
    trainer.train()
    log = trainer.recorder.logs[0]
    assert log["rewards/slowly/mean"] == 2.0 and log["rewards/Judge/mean"] == 0.5
    assert log["score"] == pytest.approx(log["rewards/count_the/mean"] + 2.5, rel=1e-5)

    for weight, sentence in (
        (3.0, "slowly returned 7 rewards for 8 completions"),
        (None, "KeyError: 'no such judge'"),
    ):
        sources = [count_the, functools.partial(slowly, weight=weight)]
        trainer = build(model, config(tmp_path, max_steps=1), reward_funcs=sources)
        with pytest.raises(UserError, match=sentence):
            trainer.train()


def test_a_reward_model_that_overflows_is_not_taken_as_not_applicable(model, tmp_path):
    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    classifier.score.weight.data.fill_(math.nan)
    classifier.save_pretrained(tmp_path / "classifier")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "classifier")
    trainer = build(model, config(tmp_path, max_steps=1), reward_funcs=[count_the, str(tmp_path / "classifier")])
    with pytest.raises(UserError, match="The reward model classifier scored 8 of 8 completions as NaN or infinite"):
        trainer.train()


def rows(*completions, **columns):
    return {"prompts": ["a question"] * len(completions), "completions": list(completions), **columns}


def reads_a_number(completions, answer, **kwargs):
    return [float(number(text) == right) for text, right in zip(completions, answer, strict=True)]


def number(text):
    return int(text.split("=")[1])


def by_message(completions, **kwargs):
    scores = []
    for (message,) in completions:
        scores.append(1 / len(message["content"]))
    return scores


def at_once(completions, **kwargs):
    return list(map(int, completions))


@pytest.mark.parametrize(
    ("function", "given", "words"),
    [
        (
            reads_a_number,
            rows("x = 1", "x is " + "two", "x = 3", answer=[1, 2, 3]),
            "completion 2 of 3 ('x is two', prompt 'a question') with IndexError",
        ),
        (
            by_message,
            rows(*([{"role": "assistant", "content": text}] for text in ("yes", "", "no"))),
            "completion 2 of 3 ('', prompt 'a question') with ZeroDivisionError",
        ),
        (at_once, rows("1", "two", "3"), "failed on 3 completions with ValueError"),  # no frame holds the row
    ],
)
def test_the_row_is_named_if_a_frame_holds_it(function, given, words):
    with pytest.raises(UserError) as raised:
        checked(function)(**given)
    assert words in str(raised.value)


def test_a_row_that_several_share_is_not_guessed():
    same = "the same text"
    with pytest.raises(UserError, match="failed on 2 completions with"):
        checked(divides)(**rows(same, same))
