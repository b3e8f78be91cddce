"""What can happen to one row: it is dropped for a reason, or kept with notes. Both are counted, never silent.

The codes are small integers stored beside the rows while they are converted, so the counts survive a cache
hit (when no row is converted again) and a million rows cost a few megabytes rather than their text.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Why a row cannot be used. The value completes "3 rows dropped: …"."""

    NULL = "a value it needs is missing (null)"
    NOT_TEXT = "a value is neither text nor a list of messages"
    NO_MESSAGES = "a message list is empty"
    BAD_MESSAGE = "a message lacks its role or its text"
    NOT_TRANSCRIPT = "the text is no Human/Assistant transcript"
    NO_ANSWER = "the answer does not start and end with an assistant turn"
    NO_PROMPT = "there is no turn before the answer, or chosen and rejected answer different prompts"
    BAD_LABEL = "its label is none of the known spellings"
    TOO_FEW_OUTPUTS = "it has fewer than two outputs to compare"
    TIE = "neither of its two answers is better (a tie)"
    BAD_WINNER = "its winner names neither answer by the end of its column's name (a or b; 1 or 2), nor a tie"
    BAD_SCORE = "a score is no number"

    @property
    def code(self) -> int:
        """1, 2, …; 0 means the row is kept."""
        return _REASONS.index(self) + 1


class Note(Enum):
    """Something worth knowing about a row that is kept. The value completes "3 pairs: …"."""

    IDENTICAL = "chosen and rejected are the same, so they teach no preference"
    EMPTY_CHOSEN = "the chosen answer is empty, which teaches the model to say nothing"
    EMPTY_REJECTED = "the rejected answer is empty"
    EMPTY_COMPLETION = "the answer is empty; labelled desirable, it teaches the model to say nothing"
    EMPTY_PROMPT = "the prompt is empty"
    MULTI_TURN = "an answer has more than one turn, all of them scored, the user's included"
    MERGED = "neighbouring turns of the same role were merged"
    ASSISTANT_FIRST = "the conversation opens with an assistant turn, which some chat templates refuse"
    UNUSUAL_ROLE = "a role other than system, developer, user, assistant or tool, left as it is"
    PROMPT_DIFFERS = "the prompt column is not the conversation's first turn and was left out"
    PROMPT_REPEATED = "the answers repeated the prompt's turns, which were removed from them"
    MANY_OUTPUTS = "of more than two outputs the first and the last were compared"

    @property
    def bit(self) -> int:
        return 1 << _NOTES.index(self)


_REASONS = list(Reason)
_NOTES = list(Note)


class Drop(Exception):
    """Raised while one row is read; caught around that row."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason.value)
