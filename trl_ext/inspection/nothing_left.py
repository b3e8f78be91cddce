"""Refuse data of which the chat template leaves nothing to learn, and say what it leaves out."""

from __future__ import annotations

import numpy as np

from trl_ext.data.template_losses import REMEDY
from trl_ext.inspection.facts import Facts
from trl_ext.inspection.finding_sentences import MISSING
from trl_ext.methods import Method
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError


def refuse(facts: Facts, lacks: str) -> None:
    """Refuse examples of which most have a completion, or a prompt to complete, with nothing left among the tokens.

    Args:
        facts: The facts about all examples.
        lacks: A sentence about what one example lacks; may be empty.

    Raises:
        UserError: More than half of the examples that are kept are so.
    """
    kept = ~facts.is_dropped
    empty = facts.flags.get("nothing_left", np.zeros(len(facts), bool)) & kept
    if 2 * empty.sum() <= kept.sum():
        return
    rows = f"{empty.sum():,} of {count(int(kept.sum()), facts.method.unit)}"
    then = "only the end of a turn would be learned"
    if not facts.method.completions:
        then = "the model would not see the question"
    raise UserError(
        f"In {rows}, nothing of what {said(facts.method)} says is among the tokens: the chat template leaves out "
        f"{left_out(facts, empty)}. So {then}. {lacks}{' ' if lacks else ''}{REMEDY}."
    )


def said(method: Method) -> str:
    """Whose text matters: a completion's, or that of a prompt for which completions are sampled."""
    return "a completion" if method.completions else "the prompt"


def left_out(facts: Facts, rows: np.ndarray) -> str:
    """What these examples lack, in words: "tool calls and reasoning"; empty if they lack nothing."""
    found = [
        what
        for kind, what in MISSING.items()
        if any((facts.flags[name] & rows).any() for name in _flags_of(kind, facts) if name in facts.flags)
    ]
    return " and ".join(found)


def _flags_of(kind: str, facts: Facts) -> tuple[str, ...]:
    return (f"{kind}_not_learned",) if facts.method.completions else (f"{kind}_missing",)
