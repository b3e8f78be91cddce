"""The demo's known reward as a reward function for TRL's trainers."""

from typing import Any

from trl_ext.demo import grammar


def sentiment(completions: list, **kwargs: Any) -> list[float]:
    """Share of positive words among the sentiment words of each completion, in [0, 1] (`grammar.reward`).

    Args:
        completions: Texts, or conversations of one answer each.
        **kwargs: What TRL passes besides; not used.
    """
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [grammar.reward(text) for text in texts]


def fluency(prompts: list, completions: list, **kwargs: Any) -> list[float]:
    """Share of each completion's sentences that parse and are about what its prompt asks for (`grammar.fluency`).

    Args:
        prompts: The questions, as conversations.
        completions: Texts, or conversations of one answer each.
        **kwargs: What TRL passes besides; not used.
    """
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [
        grammar.fluency(text, thing=grammar.thing_of(prompt[-1]["content"]))
        for text, prompt in zip(texts, prompts, strict=True)
    ]
