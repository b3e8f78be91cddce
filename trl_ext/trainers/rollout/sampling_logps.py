"""Record the log-probabilities of sampled tokens under the weights that sampled them, while they are sampled."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from trl_ext.trainers.common.temporarily import temporarily


class Recorder(LogitsProcessor):
    """Sees the logits of each step of `generate`, and keeps one number per sampled token.

    A processor that is given to `generate` runs before the temperature, top-k and top-p, and after penalties such as
    `repetition_penalty`. So the log-probabilities are those at the temperature, of the full distribution.

    Attributes:
        logps: (B, T) once `finish` was called, float32.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self.logps: Tensor | None = None
        self._steps: list[Tensor] = []
        self._previous: Tensor | None = None  # (B, V), of the token that is not known yet
        self._prompt_length = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._previous is None:
            self._prompt_length = input_ids.size(1)
        else:
            self._keep(input_ids[:, -1])
        self._previous = torch.log_softmax(scores.float() / self.temperature, dim=-1)
        return scores

    def finish(self, sequences: Tensor) -> None:
        """Record the last token, from prompts and completions (B, P + T)."""
        length = sequences.size(1) - self._prompt_length
        if len(self._steps) < length:
            self._keep(sequences[:, -1])
        self.logps = torch.stack(self._steps[:length], dim=1)  # `generate` may undo its last steps
        self._previous = None

    def _keep(self, tokens: Tensor) -> None:
        self._steps.append(self._previous.gather(1, tokens[:, None])[:, 0])


@contextmanager
def recorded(model: nn.Module, temperature: float) -> Iterator[Recorder]:
    """Context in which a call of `model.generate` records log-probabilities at this temperature."""
    recorder, plain = Recorder(temperature), model.generate

    def generate(**given: Any) -> Tensor:
        sequences = plain(**given, logits_processor=LogitsProcessorList([recorder]))
        recorder.finish(sequences)
        return sequences

    with temporarily(model, generate=generate):
        yield recorder


def padded(logps: Tensor, length: int) -> Tensor:
    """(B, `length`): cut, or filled with NaN."""
    filled = logps.new_full((logps.size(0), length), torch.nan)
    filled[:, : logps.size(1)] = logps[:, :length]
    return filled
