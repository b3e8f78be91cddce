"""The grammar writes what it recognises, and its reward is the share of positive words."""

import doctest
import random

import pytest

from trl_ext.demo import grammar


def reviews(n: int, seed: int = 0) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    things = [rng.choice(list(grammar.THINGS)) for _ in range(n)]
    return [(thing, grammar.write_review(thing, rng)) for thing in things]


def test_the_example_in_the_module_is_true():
    assert doctest.testmod(grammar) == (0, 3)


def test_every_review_parses_about_its_thing():
    assert all(grammar.fluency(text, thing) == 1 for thing, text in reviews(2000))


def test_no_sentence_of_a_review_parses_about_a_thing_with_other_aspects():
    # The things share no aspect, and openings name the thing.
    for thing, text in reviews(200):
        others = [other for other in grammar.THINGS if other != thing]
        assert all(grammar.fluency(text, other) == 0 for other in others)


def test_a_seed_gives_the_same_reviews():
    assert reviews(50, seed=3) == reviews(50, seed=3)
    assert reviews(50, seed=3) != reviews(50, seed=4)


def test_mean_reward_is_one_half_and_every_reward_in_range():
    # Standard deviation 0.4 of one review: 5 standard errors of 5000 are 0.028.
    rewards = [grammar.reward(text) for _, text in reviews(5000)]
    assert min(rewards) == 0 and max(rewards) == 1
    assert sum(rewards) / len(rewards) == pytest.approx(0.5, abs=0.028)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The bed was very good.", 1.0),
        ("I hated the bed. The view was great, and the room was dull.", 1 / 3),
        ("GOOD, bad; goodness.", 0.5),  # whole words, whatever their case
        ("We tried the hotel last week.", 0.5),
        ("", 0.5),
    ],
)
def test_reward_counts_sentiment_words(text, expected):
    assert grammar.reward(text) == pytest.approx(expected)


def test_corrupted_sentences_do_not_parse():
    rng = random.Random(1)
    for thing, text in reviews(500, seed=1):
        sentence = text[: text.index(".")]
        words = sentence.split()
        i = rng.randrange(1, len(words))  # without its first word, "Sadly, I …" is a sentence again
        dropped = " ".join(words[:i] + words[i + 1 :]) + "."
        doubled = " ".join(words[: i + 1] + words[i:]) + "."
        assert grammar.is_sentence(sentence + ".", thing)
        for broken in (sentence, dropped, doubled, sentence + "!", sentence.swapcase() + "."):
            assert not grammar.is_sentence(broken, thing), broken


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I loved the bed. I bed the loved.", 1 / 2),
        ("I loved the bed. I loved the", 1 / 2),
        ("I loved the soup. I loved the bed. I loved the pool.", 2 / 3),
        ("", 0),
    ],
)
def test_fluency_is_the_share_of_sentences(text, expected):
    assert grammar.fluency(text, "hotel") == pytest.approx(expected)


def test_without_a_thing_a_sentence_may_be_about_any_one():
    assert grammar.fluency("I loved the soup. I loved the bed.") == 1
    assert not grammar.is_sentence("The soup was good, and the bed was good.")


def test_prompts_are_distinct_and_name_their_thing():
    prompts = grammar.prompts()
    assert len({prompt.text for prompt in prompts}) == len(prompts) == 12 * 20 * 6
    assert all(grammar.thing_of(prompt.text) == prompt.thing for prompt in prompts)
    assert grammar.thing_of("Hello!") is None and grammar.thing_of("a hotel or a film") is None


def test_positive_and_negative_words_are_separate_and_mean_nothing_else():
    positive = {*grammar.POSITIVE_ADJECTIVES, *grammar.POSITIVE_VERBS}
    negative = {*grammar.NEGATIVE_ADJECTIVES, *grammar.NEGATIVE_VERBS}
    other = [*grammar.THINGS, *grammar.OPENINGS, *grammar.OPINIONS]
    other += [word for words in [*grammar.THINGS.values(), *grammar.NEUTRAL_SLOTS.values()] for word in words]
    assert len(positive) == len(negative) and not positive & negative
    assert all(grammar.reward(text) == 0.5 for text in other)
