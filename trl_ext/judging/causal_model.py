"""A local causal language model as judge: it compares the log-probabilities of its two verdicts, and writes nothing."""

from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trl_ext.judging.judge import Question, Verdict
from trl_ext.judging.local_model import without_template
from trl_ext.judging.template import Template
from trl_ext.support.batches import in_batches
from trl_ext.support.errors import UserError
from trl_ext.support.sampling import Completion, completion_logits, inference

LETTERS = ("A", "B")
"""The verdicts that the shipped template asks for: the first answer is better, the second is."""

BATCH_TOKENS = 8192
"""Padded tokens in a forward pass; halved where memory runs out."""


class Row(NamedTuple):
    """Token ids of a question with the part that the verdicts have in common, and of the rest of both verdicts."""

    prompt_ids: list[int]
    first: list[int]
    second: list[int]

    @property
    def n_tokens(self) -> int:
        """Of the longer sequence."""
        return len(self.prompt_ids) + max(len(self.first), len(self.second))


class CausalModelJudge:
    """Compares log p(first verdict) with log p(second verdict) as the beginning of the model's reply.

    A verdict of several tokens counts as a whole: its log-probabilities are summed. There is a tie only if both are equal.

    Args:
        name: For tables and records.
        model: A causal language model, in any quantisation.
        tokenizer: Its own, with a chat template and a padding token.
        render: Writes a question as the message that the model reads (default: the shipped template `pairwise_letters.txt`).
        verdicts: The two replies that the message asks for.
        batch_tokens: Padded tokens in a forward pass.

    Raises:
        UserError: The tokenizer has no chat template, or one verdict begins with the other.
    """

    has_position = True

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        render: Callable[[Question], str] | None = None,
        verdicts: tuple[str, str] = LETTERS,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        if not tokenizer.chat_template:
            raise UserError(without_template(name))
        if verdicts[0].startswith(verdicts[1]) or verdicts[1].startswith(verdicts[0]):
            raise UserError(
                f"The verdicts of a judge are {verdicts[0]!r} and {verdicts[1]!r}, but one begins with the other, so it would be "
                "at least as probable for any question. Choose two words of which neither begins with the other."
            )
        self.name = name
        self._model, self._tokenizer, self._words, self._batch_tokens = model, tokenizer, verdicts, batch_tokens
        self._render = render or render_letters

    def verdicts(self, questions: Sequence[Question]) -> Iterator[Verdict]:
        """A verdict for each question, in their order, those of a batch as soon as it is computed."""
        for first, second in self.log_probabilities(questions):
            yield Verdict.TIE if first == second else Verdict.FIRST if first > second else Verdict.SECOND

    def log_probabilities(self, questions: Sequence[Question]) -> Iterator[tuple[float, float]]:
        """Log-probabilities of both verdicts for each question, in nats, given the tokens that they have in common."""
        rows = [self._row(question) for question in questions]
        return in_batches(rows, self._batch_tokens, self._compute, lambda row: row.n_tokens)

    def _row(self, question: Question) -> Row:
        # The verdicts are tokenised where they stand, since many tokenizers write a word differently at the start of a text.
        message = [{"role": "user", "content": self._render(question)}]
        text = self._tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        first, second = (self._tokenizer(text + word, add_special_tokens=False)["input_ids"] for word in self._words)
        common = next(i for i, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
        return Row(first[:common], first[common:], second[common:])

    @torch.no_grad()
    def _compute(self, rows: Sequence[Row]) -> list[tuple[float, float]]:
        with inference(self._model):
            if all(len(row.first) == len(row.second) == 1 for row in rows):
                return self._of_next_tokens(rows)
            first = self._summed([Completion(row.prompt_ids, row.first, "", False) for row in rows])
            second = self._summed([Completion(row.prompt_ids, row.second, "", False) for row in rows])
        return list(zip(first, second, strict=True))

    def _of_next_tokens(self, rows: Sequence[Row]) -> list[tuple[float, float]]:
        """Both verdicts from one forward pass, since they differ in one token only."""
        logps = self._logps([Completion(row.prompt_ids, row.first, "", False) for row in rows])[0][:, -1]
        found = logps.gather(1, torch.tensor([[*row.first, *row.second] for row in rows], device=logps.device))
        return list(map(tuple, found.tolist()))

    def _summed(self, completions: list[Completion]) -> list[float]:
        logps, tokens, mask = self._logps(completions)
        return (logps.gather(2, tokens.unsqueeze(2)).squeeze(2) * mask).sum(1).tolist()

    def _logps(self, completions: list[Completion]) -> tuple[Tensor, Tensor, Tensor]:
        logits, tokens, mask = completion_logits(self._model, self._tokenizer, completions)
        return logits.log_softmax(-1), tokens, mask


def render_letters(question: Question) -> str:
    """A question in the shipped template, which asks for one of `LETTERS`."""
    return Template(resources.files("trl_ext.judging").joinpath("pairwise_letters.txt").read_text("utf-8")).render(
        question
    )
