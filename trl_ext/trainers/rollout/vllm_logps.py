"""Keep the log-probabilities that vLLM computes with the completions; TRL's RLOO trainer neither asks for them nor keeps them."""

import math
from typing import Any

import torch
from torch import Tensor


def returned_by(generation: Any) -> None:
    """Let `generation`, TRL's `VLLMGeneration`, return log-probabilities of the sampled tokens, and keep the last ones."""
    plain = generation.generate
    generation.logprobs = 0  # the sampled token's alone

    def generate(*args: Any, **kwargs: Any) -> tuple:
        found = plain(*args, **kwargs)
        generation.last_logprobs = found[2]
        return found

    generation.generate = generate


def of(generation: Any) -> Tensor | None:
    """(B, T) of the last call, NaN where vLLM gave none; `None` if it gave none at all."""
    rows = generation.last_logprobs
    if rows is None:
        return None
    length = max(map(len, rows), default=0)
    filled = [
        [math.nan if token[0] is None else token[0] for token in row] + [math.nan] * (length - len(row))
        for row in rows
    ]
    return torch.tensor(filled)
