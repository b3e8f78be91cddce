"""Say what happens to one row: it is dropped for a `Reason`, or kept with `Note`s. Both are counted and reported.

The codes are small integers stored beside the rows while they are converted. So the counts are still there when the
converted rows come from the cache, and a million rows cost a few megabytes.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Why a row cannot be used. The value completes "3 rows dropped: …"."""

    NULL = "a required value is missing (null)"
    NOT_TEXT = "a value is neither text nor a list of messages"
    NO_MESSAGES = "a message list is empty"
    BAD_MESSAGE = "a message has no role or no text"
    NOT_TRANSCRIPT = "the text is not a Human/Assistant transcript"
    NO_ASSISTANT_TURN = "the completion does not start and end with an assistant turn"
    NO_PROMPT = "there is no turn before the completion, or chosen and rejected have different prompts"
    BAD_LABEL = "the label is not one of the known spellings"
    TOO_FEW_OUTPUTS = "there are fewer than two completions to compare"
    TIE = "no completion is better than another (a tie)"
    WITHIN_MARGIN = "no two scores differ by more than `dataset_pair_margin`"
    BAD_WINNER = "the winner is neither a tie nor the ending of a response column (a or b; 1 or 2)"
    BAD_CHOICE = "the choice is not the position of a completion, counted from 0"
    BAD_SCORE = "a score is not a number"
    UNEQUAL_LISTS = "the numbers of completions and of scores differ"

    @property
    def code(self) -> int:
        """1, 2, …; 0 means the row is kept."""
        return _REASONS.index(self) + 1


class Note(Enum):
    """Something worth knowing about a row that is kept. The value completes "3 pairs: …"."""

    IDENTICAL = "chosen and rejected are identical, so they teach no preference"
    EMPTY_CHOSEN = "the chosen completion is empty, which teaches the model to generate nothing"
    EMPTY_REJECTED = "the rejected completion is empty"
    EMPTY_COMPLETION = "the completion is empty; labelled desirable, it teaches the model to generate nothing"
    EMPTY_PROMPT = "the prompt is empty"
    MULTI_TURN = "a completion has several turns; the loss covers all of them, the user's turns included"
    MERGED = "consecutive turns of one role were merged"
    ASSISTANT_FIRST = "the conversation starts with an assistant turn, which some chat templates reject"
    UNUSUAL_ROLE = "a role other than system, developer, user, assistant or tool was kept as it is"
    TOOL_CALLS = "turns that call a function became `tool_calls` of the assistant"
    ENDS_WITH_ASSISTANT = (
        "the prompt ends with an assistant turn, so the completion is a second assistant turn after it; remove that turn from "
        "the prompt, or put its text at the beginning of the completions"
    )
    PROMPT_DIFFERS = "the prompt column does not match the conversation and was ignored"
    PROMPT_REPEATED = "the completions repeated the turns of the prompt, which were removed from them"

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
