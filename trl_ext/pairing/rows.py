"""The rows of the data: pairs, or completions with labels, in TRL's own columns and the score of each completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from trl_ext.data.formats.pairing import Pairing
from trl_ext.data.margins import MARGIN
from trl_ext.judging.judge import Prompt, variables_of
from trl_ext.pairing.group import Group
from trl_ext.pairing.selection import Labels, Pairs, Scores, choose_labels, choose_pairs, usable
from trl_ext.pairing.settings import Selection


class Scored(NamedTuple):
    """The completions of a prompt, their scores, and what was chosen of them."""

    group: Group
    scores: Scores
    chosen: Pairs | Labels


def choose(group: Group, scores: Scores, selection: Selection) -> Scored:
    """Choose the pairs or labels of one prompt."""
    is_whole = [completion.is_ended or selection.keep_truncated for completion in group.completions]
    among = usable(group.texts, scores, is_whole)
    if selection.labelled:
        return Scored(group, scores, choose_labels(scores, among, selection.margin, selection.threshold))
    return Scored(group, scores, choose_pairs(scores, among, Pairing(selection.select, selection.margin)))


def rows(scored: Sequence[Scored], *, write_margin: bool = False) -> list[dict[str, Any]]:
    """The rows of all prompts, in their order.

    Pairs have `prompt`, `chosen`, `rejected`, `score_chosen`, `score_rejected`; labelled completions `prompt`, `completion`, `label`,
    `score`. With `write_margin`, pairs have `margin` too. What the prompt gave the chat template besides its messages is in `tools` and
    `chat_template_kwargs`. Completions are text where the prompt is, and a message where it is a conversation.
    """
    found = [row for each in scored for row in (_pairs(each) if isinstance(each.chosen, Pairs) else _labelled(each))]
    if write_margin:
        return [row | {MARGIN: row["score_chosen"] - row["score_rejected"]} for row in found]
    return found


def _pairs(scored: Scored) -> list[dict[str, Any]]:
    prompt, texts, scores = scored.group.prompt, scored.group.texts, scored.scores
    return [
        {
            "prompt": prompt,
            "chosen": _as_completion(prompt, texts[better]),
            "rejected": _as_completion(prompt, texts[worse]),
            "score_chosen": scores[better],
            "score_rejected": scores[worse],
            **_columns(prompt),
        }
        for better, worse in scored.chosen.pairs
    ]


def _labelled(scored: Scored) -> list[dict[str, Any]]:
    prompt, texts, scores = scored.group.prompt, scored.group.texts, scored.scores
    return [
        {
            "prompt": prompt,
            "completion": _as_completion(prompt, texts[i]),
            "label": label,
            "score": scores[i],
            **_columns(prompt),
        }
        for i, label in scored.chosen.labels.items()
    ]


def _columns(prompt: Prompt) -> dict[str, Any]:
    """As TRL's preference trainers read them."""
    others = dict(variables_of(prompt))
    tools = others.pop("tools", None)
    return ({"tools": tools} if tools else {}) | ({"chat_template_kwargs": others} if others else {})


def _as_completion(prompt: Prompt, text: str) -> str | list[dict[str, str]]:
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
