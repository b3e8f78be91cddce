"""Separate prompts from completions in datasets that keep them together.

TRL cuts at the first difference (``trl.extract_prompt``). On ordinary rows the result here is the same. It differs where
TRL's cut does not give a prompt: inside a word (``The sky is bl|ue``, ``bl|ack``), in the middle of the user's turn, and for
identical, empty or unrelated texts, where TRL 1.16 cuts off one character or raises.
"""

from __future__ import annotations

import re

from trl_ext.data.formats.content_parts import text_of
from trl_ext.data.formats.messages import Message
from trl_ext.data.formats.row_outcome import Drop, Note, Reason

_WORD_AT_END = re.compile(r"\w+\Z")


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """(prompt, chosen, rejected): the shared beginning, cut back to a word boundary, and the two remainders.

    A space at the boundary belongs to the completions, as in TRL. Identical texts have an empty prompt.
    """
    if chosen == rejected:
        return "", chosen, rejected
    cut = 0
    for a, b in zip(chosen, rejected, strict=False):
        if a != b:
            break
        cut += 1
    following = (chosen[cut : cut + 1], rejected[cut : cut + 1])
    word = _WORD_AT_END.search(chosen, 0, cut)
    if word and any(_WORD_AT_END.match(character) for character in following):
        cut = word.start()
    if cut and chosen[cut - 1] == " ":
        cut -= 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def split_turns(
    chosen: list[Message], rejected: list[Message], notes: set[Note]
) -> tuple[list[Message], list[Message], list[Message]]:
    """(prompt, chosen, rejected): the turns that both share, and the remainders, which begin with an assistant turn.

    If the two conversations differ before their last turn, the remainders have several turns.

    Raises:
        Drop: There is no shared turn before the completions.
    """
    cut = 0
    last = min(len(chosen), len(rejected)) - 1
    while cut < last and chosen[cut] == rejected[cut]:
        cut += 1
    while cut > 0 and not chosen[cut]["role"] == rejected[cut]["role"] == "assistant":
        cut -= 1
    if cut == 0:
        raise Drop(Reason.NO_PROMPT)
    _check(chosen[:cut], (chosen[cut:], rejected[cut:]), notes)
    return chosen[:cut], chosen[cut:], rejected[cut:]


def join_pair(
    prompt: list[Message] | None, chosen: list[Message], rejected: list[Message], notes: set[Note]
) -> tuple[list[Message], list[Message], list[Message]]:
    """(prompt, chosen, rejected), for completions that are stored alone or as whole conversations.

    If a conversation and the prompt column beside it disagree, the conversation is used and a note is added: the column is
    often its first turn only.
    """
    if prompt is None:
        return split_turns(chosen, rejected, notes)
    if chosen[0]["role"] == rejected[0]["role"] == "assistant":
        _check(prompt, (chosen, rejected), notes)
        return prompt, chosen, rejected
    whole, chosen, rejected = split_turns(chosen, rejected, notes)
    _compare(prompt, whole, notes)
    return whole, chosen, rejected


def join_single(
    prompt: list[Message] | None, completion: list[Message], notes: set[Note]
) -> tuple[list[Message], list[Message]]:
    """(prompt, completion), for completions that are stored alone or as the last turn of a whole conversation."""
    if prompt is not None and completion[0]["role"] == "assistant":
        _check(prompt, (completion,), notes)
        return prompt, completion
    whole, completion = completion[:-1], completion[-1:]
    if not whole:
        raise Drop(Reason.NO_PROMPT)
    _check(whole, (completion,), notes)
    if prompt is not None:
        _compare(prompt, whole, notes)
    return whole, completion


def _check(prompt: list[Message], completions: tuple[list[Message], ...], notes: set[Note]) -> None:
    if any(
        completion[0]["role"] != "assistant" or completion[-1]["role"] != "assistant" for completion in completions
    ):
        raise Drop(Reason.NO_ASSISTANT_TURN)
    if any(len(completion) > 1 for completion in completions):
        notes.add(Note.MULTI_TURN)
    if next((message["role"] for message in prompt if message["role"] != "system"), "") == "assistant":
        notes.add(Note.ASSISTANT_FIRST)
    if prompt and prompt[-1]["role"] == "assistant":
        notes.add(Note.ENDS_WITH_ASSISTANT)


def _compare(prompt: list[Message], whole: list[Message], notes: set[Note]) -> None:
    """Note how a prompt column relates to the prompt inside the conversation."""
    if len(prompt) > 1:
        notes.add(Note.PROMPT_REPEATED if prompt == whole else Note.PROMPT_DIFFERS)
    elif text_of(prompt[0]["content"]).strip() not in {text_of(m["content"]).strip() for m in whole}:
        notes.add(Note.PROMPT_DIFFERS)
