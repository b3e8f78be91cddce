"""Score the demo's completions with its known reward, in the form that TRL's trainers take."""

from typing import Any

from trl_ext.demo import grammar


def sentiment(completions: list, **kwargs: Any) -> list[float]:
    """Share of positive words among the sentiment words of each completion, in [0, 1] (`grammar.reward`).

    Args:
        completions: Texts, or conversations of one message each.
        **kwargs: Further arguments of TRL; not used.
    """
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [grammar.reward(text) for text in texts]


def fluency(prompts: list, completions: list, **kwargs: Any) -> list[float]:
    """Share of each completion's sentences that parse and are about the thing its prompt asks about (`grammar.fluency`).

    Args:
        prompts: The questions, as conversations.
        completions: Texts, or conversations of one message each.
        **kwargs: Further arguments of TRL; not used.
    """
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [
        grammar.fluency(text, thing=grammar.thing_of(prompt[-1]["content"]))
        for text, prompt in zip(texts, prompts, strict=True)
    ]


NAMES = {sentiment: "true reward", fluency: "sentences that parse"}
"""What these rewards are called in results."""
