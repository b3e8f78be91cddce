"""Audit KL estimators on completions of a trained adapter, against the KL summed over the vocabulary at every state.

That sum, E[d_t | state], needs no estimator. Added up over a sampled completion it is unbiased for the KL of whole
completions. With a term for the effect of each token on later states, its gradient is unbiased too.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from trl_ext.kl_audit.exact import CELLS, Audit, Row, values
from trl_ext.rl import masked, objectives, truth_table
from trl_ext.support.sampling import Completion, Watched, completion_logits, inference, unwatched

TRUE = "true"
"""Key of the KL summed over the vocabulary, among those of cells."""

GRADIENT_CHUNKS = 32
"""The completions are split into this many chunks, to separate the gradient from its noise."""

LARGEST_GRADIENT = 250_000
"""Maximum number of adapter weights for which gradients are taken. An unbiased gradient is unbiased in every part."""

LARGEST_COSINE_ERROR = 0.5
"""A cosine with a larger standard error is treated as unknown: the gradient is zero, or all noise."""

LARGEST_LOGITS = 2**26
"""Maximum number of logits of one forward pass."""

SAME_GRADIENT = {
    ("k1", "loss", "token"): ("k1", "loss", "sequence"),
    **{("k3+", "reward", level): ("k3", "reward", level) for level in truth_table.LEVELS},
    ("k3+", "loss", "token"): ("k2", "loss", "token"),
    **{(name, "loss", "sequence"): ("k1", "reward", "sequence") for name in ("k2", "k3+")},
}
"""Cells whose gradient is that of another cell, sample by sample, so that it is computed once."""

LARGEST_ERROR = 1.0
"""Standard error of the mean of k1, divided by the KL, above which nothing is estimated."""


def measure_kl(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, completions: list[Completion]
) -> tuple[float, float]:
    """KL(π‖ref) of whole completions, summed over the vocabulary at every state, and its standard error. Needs no gradient."""
    size = _rows_of_a_pass(model, completions)
    parts = []
    with inference(model), torch.no_grad():
        for start in range(0, len(completions), size):
            logps, logp, ref_logp, mask = _log_probabilities(model, tokenizer, completions[start : start + size])[:4]
            parts.append(true_surrogate(logps, logp, ref_logp, mask)[0].double().cpu())
    each = torch.cat(parts)
    return each.mean().item(), each.std().item() / math.sqrt(len(each))


def is_lost_in_noise(kl: float, n: int) -> bool:
    """Whether n completions say nothing about estimators of so small a KL.

    The log-ratio of one completion has variance 2·KL if the KL is small, so the mean of k1 has the relative standard error
    √(2 / (n·KL)).
    """
    return kl <= 0 or math.sqrt(2 / (n * kl)) > LARGEST_ERROR


def enough(kl: float) -> int:
    """Completions with which the mean of k1 has half of `LARGEST_ERROR`; 0 if no number suffices."""
    return math.ceil(8 / (kl * LARGEST_ERROR**2)) if kl > 0 else 0


def audit_samples(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    completions: list[Completion],
    watched: Watched = unwatched,
) -> Audit:
    """Audit all cells at the policy that sampled the completions. The reference is the model with its adapter off.

    Args:
        model: With one trainable adapter, active.
        tokenizer: Of the model.
        completions: 64 or more, sampled at temperature 1.
        watched: Shows how many of the chunks are done.

    Raises:
        ValueError: The adapter changes no probability, so policy and reference are the same.
    """
    size = len(completions) // GRADIENT_CHUNKS
    parameters = _last(adapter_parameters(model), LARGEST_GRADIENT)
    measured, gradients = [], []
    with inference(model), _gradients_for(model, parameters):
        for start in watched(range(0, size * GRADIENT_CHUNKS, size), GRADIENT_CHUNKS):
            part = _Part(model, tokenizer, completions[start : start + size], parameters)
            measured.append(part.values)
            gradients.append(part.gradient)
    by_name = {name: torch.cat([each[name] for each in measured]) for name in measured[0]}
    gradients = torch.stack(gradients, dim=1).double()  # (cells and the true one, chunks, parameters)
    true_kl = by_name[TRUE].mean().item()
    if true_kl == 0:
        raise ValueError(
            "The adapter changes no probability. Policy and reference are the same, so every KL is 0 and nothing can be "
            "estimated."
        )
    rows = []
    for cell, gradient in zip(CELLS, gradients, strict=False):
        estimator, _, level = cell
        value = by_name[estimator, level]
        difference = (value - by_name[TRUE]) / true_kl
        rows.append(
            Row(
                *cell,
                value_bias=difference.mean().item(),
                value_bias_se=difference.std().item() / math.sqrt(len(difference)),
                value_variance=value.var().item() / true_kl**2,
                **compare_gradients(gradient, gradients[-1], size),
            )
        )
    spread = by_name[TRUE].std().item() / math.sqrt(size * GRADIENT_CHUNKS)
    return Audit(true_kl, rows, kl_se=spread, n=size * GRADIENT_CHUNKS, n_weights=gradients.shape[-1])


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters, from input to output."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def true_surrogate(logps: Tensor, logp: Tensor, ref_logp: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """KL(π‖ref) summed over the states of each completion, (B,), and a term (B,) whose expected gradient is ∇KL(π‖ref).

    Args:
        logps: Log-probabilities of the sampled tokens, (B, C).
        logp, ref_logp: Log-probabilities of all tokens, (B, C, V).
        mask: (B, C).
    """
    at_state = masked.apply((logp.exp() * (logp - ref_logp)).sum(-1), mask)
    later = at_state.detach().flip(-1).cumsum(-1).flip(-1) - at_state.detach()
    return at_state.detach().sum(-1), (at_state + masked.apply(logps, mask) * later).sum(-1)


class _Part:
    """Values and mean gradients of some completions, in as few forward passes as `LARGEST_LOGITS` allows."""

    def __init__(
        self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, completions: list[Completion], parameters: list
    ) -> None:
        rows = _rows_of_a_pass(model, completions)
        self.values: dict = {}
        self.gradient = torch.zeros(len(CELLS) + 1, sum(p.numel() for p in parameters))
        for start in range(0, len(completions), rows):
            values, surrogates = _estimates(model, tokenizer, completions[start : start + rows])
            for name, value in values.items():
                self.values[name] = torch.cat([self.values[name], value]) if name in self.values else value
            found = {}
            for cell, surrogate in surrogates.items():
                gradient = torch.autograd.grad(surrogate.sum(), parameters, retain_graph=True)
                found[cell] = torch.cat([g.flatten() for g in gradient]).cpu() / len(completions)
            for row, cell in enumerate((*CELLS, TRUE)):
                self.gradient[row] += found[SAME_GRADIENT.get(cell, cell)]


def _estimates(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, completions: list[Completion]
) -> tuple[dict, dict]:
    """Values (B,) by estimator and level, and the true KL; a differentiable term (B,) by cell, and for the true KL."""
    logps, logp, ref_logp, mask, ref_logps = _log_probabilities(model, tokenizer, completions)
    true, surrogate = true_surrogate(logps, logp, ref_logp, mask)
    found = {TRUE: true.double().cpu()}
    surrogates = {TRUE: surrogate}
    for cell in CELLS:
        estimator, placement, level = cell
        found[estimator, level] = values(estimator, level, logps.detach(), ref_logps, mask).double().cpu()
        if cell not in SAME_GRADIENT:
            surrogates[cell] = objectives.kl_surrogate(
                logps, ref_logps, mask, estimator=estimator, placement=placement, level=level
            )
    return found, surrogates


def _log_probabilities(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, completions: list[Completion]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities (B, C) of the tokens, (B, C, V) of all tokens under policy and reference, mask (B, C), and the
    reference's log-probabilities (B, C) of the tokens."""
    with torch.no_grad(), model.disable_adapter():
        ref_logits, tokens, mask = completion_logits(model, tokenizer, completions)
        ref_logp = ref_logits.log_softmax(-1)
    logp = completion_logits(model, tokenizer, completions)[0].log_softmax(-1)
    logps, ref_logps = (x.gather(2, tokens.unsqueeze(2)).squeeze(2) for x in (logp, ref_logp))
    return logps, logp, ref_logp, mask, ref_logps


def _rows_of_a_pass(model: PeftModel, completions: list[Completion]) -> int:
    """Completions of a forward pass."""
    longest = max(len(completion.ids) for completion in completions)
    return max(1, LARGEST_LOGITS // (longest * model.config.get_text_config().vocab_size))


def compare_gradients(gradient: Tensor, true: Tensor, size: int) -> dict[str, float]:
    """Cosine, relative error and variance of a cell's gradient, from chunk means (M, P) of `size` completions each.

    The product of a mean with itself is biased upwards by its noise; products of different chunks are unbiased. Standard
    errors are jackknife estimates over the chunks. The cosine is NaN if its standard error is too large.
    """
    products = {
        "own": gradient @ gradient.T,
        "cross": gradient @ true.T,
        "true": true @ true.T,
        "difference": (gradient - true) @ (gradient - true).T,
    }

    def statistic(function: Callable[..., float]) -> tuple[float, float]:
        chunks = len(gradient)
        without = [function(**_off_diagonal(products, leave_out=i)) for i in range(chunks)]
        spread = math.sqrt((chunks - 1) * torch.tensor(without).var(unbiased=False).item())
        return function(**_off_diagonal(products)), spread

    squared_error, squared_error_se = statistic(lambda difference, true, **_: difference / true)
    cosine, cosine_se = statistic(lambda own, cross, true, **_: cross / math.sqrt(abs(own * true)))
    if _off_diagonal(products)["own"] <= 0 or cosine_se > LARGEST_COSINE_ERROR:
        cosine, cosine_se = math.nan, math.nan
    return {
        "cosine": cosine,
        "cosine_se": cosine_se,
        "squared_error": squared_error,
        "squared_error_se": squared_error_se,
        "gradient_variance": gradient.var(dim=0).sum().item() * size / _off_diagonal(products)["true"],
    }


def _off_diagonal(products: dict[str, Tensor], leave_out: int | None = None) -> dict[str, float]:
    """Mean over pairs of different chunks of each matrix (M, M) of products."""
    means = {}
    for name, matrix in products.items():
        keep = torch.tensor([i for i in range(len(matrix)) if i != leave_out])
        matrix = matrix[keep][:, keep]
        means[name] = ((matrix.sum() - matrix.trace()) / (len(keep) * (len(keep) - 1))).item()
    return means


def _last(parameters: list[nn.Parameter], limit: int) -> list[nn.Parameter]:
    """The last parameters with up to `limit` elements in total; always one or more."""
    chosen: list[nn.Parameter] = []
    for parameter in reversed(parameters):
        if chosen and sum(p.numel() for p in chosen) + parameter.numel() > limit:
            break
        chosen.append(parameter)
    return chosen


@contextmanager
def _gradients_for(model: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Inside, only these parameters require gradients, so that no graph is kept below them."""
    chosen = {id(parameter) for parameter in parameters}
    others = [parameter for parameter in adapter_parameters(model) if id(parameter) not in chosen]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
