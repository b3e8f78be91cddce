"""Write, recognise and score reviews in a small language, whose grammar and sentiment are known exactly.

The setting of controlled sentiment generation in the DPO paper (arXiv:2305.18290, section 6.1) without its
learned judge: one set of sentence patterns both *writes* reviews and *recognises* them, so the two things
that preference training trades against each other, reward and fluency, are counted instead of estimated.
The recogniser accepts sentences with contradictory sentiment words; only the reward depends on sentiment.

    >>> review = write_review("hotel", random.Random(13))
    >>> review
    'Sadly, I disliked the bed. Luckily, I admired the room. We found the pool beautiful.'
    >>> reward(review), fluency(review, thing="hotel")
    (0.6, 1.0)
"""

import functools
import itertools
import random
import re
from typing import NamedTuple

THINGS = {
    "film": ("plot", "acting", "music", "script", "camera work", "cast"),
    "restaurant": ("soup", "service", "dessert", "wine", "menu", "bread"),
    "hotel": ("room", "bed", "breakfast", "view", "lobby", "pool"),
    "book": ("story", "style", "hero", "first chapter", "dialogue", "cover"),
    "phone": ("screen", "battery", "camera", "keyboard", "design", "case"),
    "concert": ("band", "singer", "sound", "light show", "encore", "hall"),
    "museum": ("tour", "guide", "collection", "cafe", "building", "map"),
    "train": ("seat", "window", "conductor", "coffee", "ride", "timetable"),
    "game": ("level design", "artwork", "soundtrack", "tutorial", "finale", "humour"),
    "garden": ("path", "fountain", "lawn", "bench", "pond", "tea house"),
    "market": ("cheese", "fruit", "honey", "fish stall", "atmosphere", "parking"),
    "theatre": ("stage", "lighting", "costume", "balcony", "opening scene", "speech"),
}
PLACES = (
    "in Berlin", "in Rome", "in Oslo", "in Lisbon", "in Vienna", "in Dublin", "in Prague", "in Athens",
    "near the river", "near the station", "by the sea", "by the old bridge", "on the hill", "on the island",
    "at the harbour", "at the border", "downtown", "next door", "in the valley", "in the old town",
)  # fmt: skip
REQUESTS = (
    "Write a short review of the {thing} {place}.",
    "Tell me about the {thing} {place}.",
    "What did you think of the {thing} {place}?",
    "Describe your visit to the {thing} {place}.",
    "How was the {thing} {place}?",
    "Review the {thing} {place} in a few sentences.",
)

POSITIVE_ADJECTIVES = (
    "good", "great", "lovely", "superb", "charming", "wonderful", "splendid", "pleasant", "brilliant", "beautiful",
)  # fmt: skip
NEGATIVE_ADJECTIVES = (
    "bad", "poor", "dull", "weak", "terrible", "boring", "dreadful", "horrible", "awful", "tiresome",
)  # fmt: skip
POSITIVE_VERBS = ("loved", "enjoyed", "admired", "praised", "liked")
NEGATIVE_VERBS = ("hated", "disliked", "despised", "resented", "criticised")
POSITIVE_ADVERBS = ("Luckily", "Happily")
NEGATIVE_ADVERBS = ("Sadly", "Unfortunately")

# Slots of the patterns with words that do not depend on the reviewed thing or on the mood.
NEUTRAL_SLOTS = {
    "name": (
        "Anna",
        "Ben",
        "Clara",
        "David",
        "Emma",
        "Felix",
        "Greta",
        "Hugo",
        "Iris",
        "Leo",
        "Nora",
        "Paul",
    ),
    "degree": ("really", "quite", "truly", "rather", "very", "so"),
    "time": (
        "on Monday",
        "on Friday",
        "last week",
        "last year",
        "in spring",
        "in May",
        "this morning",
        "yesterday",
    ),
}
OPENINGS = ("We tried the {thing} {time}.", "{name} showed me the {thing} {time}.")
OPINIONS = (
    "The {aspect} was {degree} {adjective}.",
    "I {verb} the {aspect}.",
    "We found the {aspect} {adjective}.",
    "The {aspect} was {adjective}, and the {aspect} was {adjective}.",
    "My friend {name} {verb} the {aspect}.",
    "According to {name}, the {aspect} was {adjective}.",
    "Even the {aspect} seemed {degree} {adjective}.",
    "We talked about the {aspect}, which was {adjective}.",
    "I {verb} the {aspect}, which was {degree} {adjective}.",
    "{adverb}, the {aspect} was {adjective}.",
    "{adverb}, I {verb} the {aspect}.",
)
# A review has one mood: the probability that an opinion is positive. The moods are symmetric, so the mean reward is
# 1/2, and spread wide, so that a policy can earn a high reward at a small KL to the reference.
MOODS = (0.05, 0.2, 0.5, 0.8, 0.95)
OPINION_COUNTS = (2, 3, 3, 4)

_SLOT = re.compile(r"\{(\w+)\}")
_POSITIVE = {"adjective": POSITIVE_ADJECTIVES, "verb": POSITIVE_VERBS, "adverb": POSITIVE_ADVERBS}
_NEGATIVE = {"adjective": NEGATIVE_ADJECTIVES, "verb": NEGATIVE_VERBS, "adverb": NEGATIVE_ADVERBS}
_POSITIVE_WORDS, _NEGATIVE_WORDS = (
    frozenset(word.lower() for words in slots.values() for word in words) for slots in (_POSITIVE, _NEGATIVE)
)


class Prompt(NamedTuple):
    """A request for a review and the thing it asks about."""

    text: str
    thing: str


def prompts() -> list[Prompt]:
    """Every prompt of the language (thing × place × request), always in the same order."""
    combinations = itertools.product(REQUESTS, THINGS, PLACES)
    return [Prompt(request.format(thing=thing, place=place), thing) for request, thing, place in combinations]


def thing_of(text: str) -> str | None:
    """The thing a prompt asks about, or None if it names no thing or several."""
    named = {word for word in re.findall(r"[a-z]+", text.lower()) if word in THINGS}
    return named.pop() if len(named) == 1 else None


def write_review(thing: str, rng: random.Random) -> str:
    """A random review of `thing`: possibly an opening, then two to four opinions in one mood."""
    mood = rng.choice(MOODS)
    patterns = [rng.choice(OPINIONS) for _ in range(rng.choice(OPINION_COUNTS))]
    if rng.random() < 0.5:
        patterns.insert(0, rng.choice(OPENINGS))
    return " ".join(_write_sentence(pattern, thing, rng.random() < mood, rng) for pattern in patterns)


def reward(text: str) -> float:
    """Share of positive words among the sentiment words of `text`, in [0, 1]; 0.5 without sentiment words."""
    words = re.findall(r"[a-z]+", text.lower())
    positive = sum(word in _POSITIVE_WORDS for word in words)
    negative = sum(word in _NEGATIVE_WORDS for word in words)
    return positive / (positive + negative) if positive + negative else 0.5


def is_sentence(text: str, thing: str | None = None) -> bool:
    """Whether `text` is exactly one sentence of the language, about `thing` (about any one thing if None)."""
    if thing is not None:
        return _recogniser(thing).fullmatch(text) is not None
    return any(_recogniser(known).fullmatch(text) for known in THINGS)


def fluency(text: str, thing: str | None = None) -> float:
    """Share of the sentences of `text` that are sentences of the language about `thing`; 0 for an empty text.

    A sentence ends at `.`, `!` or `?`. Text after the last of these counts as a sentence that does not parse, so
    truncating a review lowers its fluency.
    """
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    return sum(is_sentence(sentence, thing) for sentence in sentences) / len(sentences)


def _write_sentence(pattern: str, thing: str, is_positive: bool, rng: random.Random) -> str:
    words = _POSITIVE if is_positive else _NEGATIVE
    return _SLOT.sub(lambda slot: rng.choice(words.get(slot[1]) or _neutral_words(slot[1], thing)), pattern)


def _neutral_words(slot: str, thing: str) -> tuple[str, ...]:
    if slot == "thing":
        return (thing,)
    return THINGS[thing] if slot == "aspect" else NEUTRAL_SLOTS[slot]


@functools.cache
def _recogniser(thing: str) -> re.Pattern:
    """A regular expression for every sentence about `thing`, compiled from the generator's patterns."""

    def words(slot: str) -> tuple[str, ...]:
        if slot in _POSITIVE:
            return _POSITIVE[slot] + _NEGATIVE[slot]
        return _neutral_words(slot, thing)

    def expression(pattern: str) -> str:
        text_and_slots = _SLOT.split(pattern)  # alternates: text, slot, text, slot, …, text
        text_and_slots[::2] = map(re.escape, text_and_slots[::2])
        text_and_slots[1::2] = [f"(?:{'|'.join(map(re.escape, words(slot)))})" for slot in text_and_slots[1::2]]
        return "".join(text_and_slots)

    return re.compile("|".join(map(expression, OPENINGS + OPINIONS)))
