"""Count the tokens that a judge's verdicts used, those of this time apart from those of the cache."""

from dataclasses import dataclass, field

from trl_ext.judging.judge import Verdict
from trl_ext.judging.verdict_cache import Reply
from trl_ext.support.counts import are, count, were


@dataclass
class Tally:
    """Sums over replies."""

    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    """Replies for which the API reported no token counts. They add nothing to the sums."""

    def add(self, reply: Reply) -> None:
        self.replies += 1
        self.prompt_tokens += reply.prompt_tokens or 0
        self.completion_tokens += reply.completion_tokens or 0
        self.uncounted += reply.prompt_tokens is None or reply.completion_tokens is None

    def __str__(self) -> str:
        counted = (
            f"{count(self.prompt_tokens, 'prompt tokens')} and {count(self.completion_tokens, 'completion tokens')}"
        )
        without = f" ({count(self.uncounted, 'replies')} without a count)" if self.uncounted else ""
        return f"{count(self.replies, 'replies')}, {counted}{without}"


@dataclass
class Usage:
    """What the verdicts of one judge used since it was made. Each distinct question counts once per call of `verdicts`."""

    new: Tally = field(default_factory=Tally)
    """Replies that were asked for, the request of `check` included."""
    cached: Tally = field(default_factory=Tally)
    """Replies of the cache. Their tokens were used by an earlier evaluation."""
    unclear: int = 0
    """Questions without a verdict, for any of the reasons below or because the reply has no mark."""
    cut: int = 0
    """Questions without a verdict whose reply reached `max_tokens`."""
    refused: int = 0
    """Questions that the API refused, such as one longer than the judge's context. They are asked again next time."""

    def add(self, reply: Reply, tally: Tally) -> None:
        tally.add(reply)
        self.unclear += reply.verdict is Verdict.UNCLEAR
        self.cut += reply.verdict is Verdict.UNCLEAR and reply.was_cut

    def refuse(self) -> None:
        self.unclear += 1
        self.refused += 1

    def sentences(self) -> list[str]:
        """The counts, for people: tokens, then what is unclear and why."""
        said = [f"Judge: {self.new}."]
        if self.cached.replies:
            said.append(f"From the cache, at no cost: {self.cached}.")
        if self.unclear:
            said.append(f"{count(self.unclear, 'questions')} {are(self.unclear)} without a clear verdict.")
        if self.cut:
            said.append(
                f"{count(self.cut, 'replies')} of these reached `judge_max_tokens` before a verdict. Raise it."
            )
        if self.refused:
            said.append(f"{count(self.refused, 'questions')} of these {were(self.refused)} refused by the API.")
        return said
