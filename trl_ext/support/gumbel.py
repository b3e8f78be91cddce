"""Sample each row of a batch with random numbers of its own.

The token with the largest logit / T + G, with independent G from the standard Gumbel distribution, is an exact sample from
softmax(logits / T) (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030). Each row draws G from its own generator, so the other
rows of a batch have no influence on it. Where rounding changes a distribution by a total variation of d, the token changes with a
probability of at most about 2·d. That is why noise is used instead of one uniform number per token and the inverse of the
cumulative distribution, in which every rounding is carried through the whole vocabulary.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor
from transformers import LogitsProcessor

from trl_ext.support.errors import UserError


def row_seeds(seed: int, rows: Sequence[Sequence[int]]) -> list[int]:
    """A seed for each prompt, given as token ids: it depends on `seed`, on the ids and, for equal prompts, on which repeat it is.

    The index in the list is not used, so that a prompt keeps its completion if others are added, removed or moved.
    """
    repeats: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for row in map(tuple, rows):
        key = " ".join(map(str, (seed, repeats[row], *row)))
        seeds.append(int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) >> 1)
        repeats[row] += 1
    return seeds


class GumbelNoise(LogitsProcessor):
    """Turns greedy decoding into sampling: adds noise to logits / T, row by row.

    Nothing waits for the device. Per token, each row takes one kernel for its uniform numbers, and all rows together a few that
    turn these into noise. Memory: one float64 number per row and token of the vocabulary. In float32, uniform numbers are
    multiples of 2⁻²⁴, which would make the rarest tokens too frequent.

    Args:
        seeds: One per row.
        temperature: T, above 0.
        device: Of the logits.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._temperature = temperature
        self._noise: Tensor | None = None
        self._is_finite = torch.ones((), dtype=torch.bool, device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits (B, V) → logits / T + G (B, V) in float64. The tensor is used again by the next call."""
        if self._noise is None:
            self._noise = torch.empty_like(scores, dtype=torch.float64)
        for row, generator in zip(self._noise, self._generators, strict=True):
            row.uniform_(2**-54, 1, generator=generator)  # not 0, whose noise would be infinite
        self._is_finite &= scores.amax(-1).isfinite().all()
        # A uniform U gives −log(1 − U) from the exponential distribution, and G = −log of that.
        negated = self._noise.neg_().log1p_().neg_().log_()
        return negated.neg_().add_(scores, alpha=1 / self._temperature)

    def check(self) -> None:
        """Check all logits so far. It waits for the device.

        Raises:
            UserError: Some are NaN or +∞. Tokens would be chosen nevertheless.
        """
        if not self._is_finite:
            raise UserError(
                "The model computed logits that are NaN or infinite, so no completions can be sampled from it. Either it overflows "
                "in this precision, or its weights are damaged. Try another dtype, or another copy of the weights."
            )
