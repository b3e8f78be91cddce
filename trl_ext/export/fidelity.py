"""Measure the difference between a merged model and the trained one, and its sources.

Training used a 4-bit base with the adapter beside it; the merged model has 16-bit weights with the adapter rounded into
them. Both differences are measured, each over the whole vocabulary at every token of the same completions.

Only one model is in memory at a time. The input of its head is kept for the comparison with the next model: H numbers per
token instead of V log-probabilities. The next model's forward pass runs the kept head on the kept inputs, so anything the
model does to its logits is applied to both. GGUF files are compared last, each beside the merged model.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trl_ext.build import pretrained
from trl_ext.build.dtypes import precision
from trl_ext.export import merging
from trl_ext.export.held_out import HeldOut
from trl_ext.export.source import Source
from trl_ext.runs import finished
from trl_ext.runs.load import open_model
from trl_ext.support.sampling import Completion, completion_logits, inference, sample

LARGEST_LOGITS = 2**27
"""Largest number of logits of one forward pass, those of the earlier model included; one sequence is always run."""

BLOCK = 2**24
"""Number of log-probabilities compared at a time."""


@dataclass
class Drift:
    """Difference from an earlier model p to a later one q, over all tokens of all completions.

    Attributes:
        kl: KL(p‖q) summed over the vocabulary, mean over tokens, nats.
        largest_token: Largest |log p − log q| of a token that is in the data, nats.
        largest_sequence: The same for whole completions, summed before the absolute value is taken.
        same_top: Share of tokens at which both have the same most likely token.
    """

    kl: float
    largest_token: float
    largest_sequence: float
    same_top: float


Predict = Callable[[Completion], Tensor]
"""Logits of another program that predict each token of a completion, (C, V), float32."""


class Served(NamedTuple):
    """A file that another program serves the merged model from.

    Attributes:
        name: For tables.
        bytes: Its size.
        is_quantised: Whether its weights are quantised, and not only converted.
        opened: Loads it for sequences of up to so many tokens.
    """

    name: str
    bytes: int
    is_quantised: bool
    opened: Callable[[int], AbstractContextManager[Predict]]


@dataclass
class FileDrift:
    """Difference of one file.

    Attributes:
        name: Of the file.
        bytes: Its size.
        is_quantised: Whether its weights are quantised, and not only converted.
        from_merged: From the merged 16-bit model to the file; `None` if nothing was merged.
        from_trained: From the model that was trained, on its quantised base, to the file.
    """

    name: str
    bytes: int
    is_quantised: bool
    from_merged: Drift | None
    from_trained: Drift


@dataclass
class Fidelity:
    """The results of all comparisons.

    Attributes:
        total: From the trained model to the merged one; `None` if nothing was merged.
        training: From the base to the trained model, as a scale for the others; `None` in that case.
        quantisation: From the base of the training to that of the merge, both without adapter; `None` if they are the same.
        rounding: From the base of the merge with the adapter beside it to the merged one; `None` in that case.
        base: Storage of the base in training: `4-bit`, say.
        tokens: Number of completion tokens.
        dtype: Compute dtype of all models.
        what: Description of the completions.
        files: One entry per file that was made of the merged model.
        trained_on: Name of the base of the training, if another model was merged into.
        merged_into: Name of that model.
    """

    total: Drift | None
    training: Drift | None
    quantisation: Drift | None
    rounding: Drift | None
    base: str
    tokens: int
    dtype: str
    what: str
    files: list[FileDrift] = field(default_factory=list)
    trained_on: str | None = None
    merged_into: str | None = None


class Kept(NamedTuple):
    """A model's predictions: the inputs of its head, one (B, C + 1, H) on the CPU per batch, and the head."""

    states: list[Tensor]
    head: nn.Module


def measure(source: Source, merged: Path, data: HeldOut, files: Sequence[Served] = ()) -> Fidelity:
    """Compare the trained model, the base in either precision and the merged model, one in memory at a time.

    Args:
        source: A run that left an adapter.
        merged: The folder of the merged model.
        data: The completions to compare on.
        files: Made of the merged model. One at a time is in memory, beside the merged model.
    """
    opened = open_model(source.folder)
    model, tokenizer = opened.model, opened.tokenizer
    dtype = precision(finished.recipe_of(source.folder)).model_dtype
    completions = data.completions or sample(
        model, tokenizer, data.prompts, seed=0, max_new_tokens=source.recipe.effective("max_completion_length") or 128
    )
    batches = _batches(completions, model.config.get_text_config().vocab_size)
    with model.disable_adapter():
        base = keep(model, tokenizer, batches)
    trained = keep(model, tokenizer, batches)
    training = compare(base, model, tokenizer, batches)
    name, has_other = _precision(model.get_base_model(), dtype), source.trained_on is not None
    has_two_bases = has_other or hasattr(model.get_base_model(), "hf_quantizer")
    del opened, model
    _free()
    quantisation = rounding = None
    if has_two_bases:
        plain = merging.load_base(source, dtype=dtype)
        quantisation = compare(base, plain, tokenizer, batches)
        with_adapter = keep(merging.put_on(plain, source), tokenizer, batches)
        del plain, base
        _free()
    model = pretrained.load(str(merged), dtype=dtype, trust_remote_code=source.trust_remote_code)
    total = compare(trained, model, tokenizer, batches)
    if has_two_bases:
        rounding = compare(with_adapter, model, tokenizer, batches)
    longest = max(len(completion.prompt_ids) + len(completion.ids) for completion in completions)
    found = []
    for file in files:
        with file.opened(longest) as predict:
            drifts = compare_served(trained, model, tokenizer, batches, predict)
        found.append(FileDrift(file.name, file.bytes, file.is_quantised, *drifts))
    tokens = sum(len(completion.ids) for completion in completions)
    bases = (source.trained_on, source.base) if has_other else (None, None)
    return Fidelity(total, training, quantisation, rounding, name, tokens, str(dtype), data.what, found, *bases)


def measure_files(source: Source, data: HeldOut, files: Sequence[Served]) -> Fidelity:
    """Compare files that were made of a complete model with that model.

    Args:
        source: A run that trained all weights.
        data: The completions to compare on.
        files: Made of the model. One at a time is in memory, beside it.
    """
    opened = open_model(source.folder)
    model, tokenizer, dtype = opened.model, opened.tokenizer, str(opened.model.dtype).removeprefix("torch.")
    completions = data.completions or sample(
        model, tokenizer, data.prompts, seed=0, max_new_tokens=source.recipe.effective("max_completion_length") or 128
    )
    batches = _batches(completions, model.config.get_text_config().vocab_size)
    trained = keep(model, tokenizer, batches)
    longest = max(len(completion.prompt_ids) + len(completion.ids) for completion in completions)
    found = []
    for file in files:
        with file.opened(longest) as predict:
            _, drift = compare_served(trained, model, tokenizer, batches, predict)
        found.append(FileDrift(file.name, file.bytes, file.is_quantised, None, drift))
    tokens = sum(len(completion.ids) for completion in completions)
    return Fidelity(None, None, None, None, dtype, tokens, dtype, data.what, found)


@torch.no_grad()
def keep(model: PreTrainedModel, tokenizer: Any, batches: list[list[Completion]]) -> Kept:
    """Keep the model's predictions for every token of the completions, without an adapter that is switched off."""
    states: list[Tensor] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0].cpu()))
    try:
        with inference(model):
            for batch in batches:
                completion_logits(model, tokenizer, batch)
    finally:
        hook.remove()
    return Kept(states, _without_adapter(head) if getattr(head, "disable_adapters", False) else head)


@torch.no_grad()
def compare(earlier: Kept, model: PreTrainedModel, tokenizer: Any, batches: list[list[Completion]]) -> Drift:
    """Compare kept predictions with those of a model on the same batches."""
    drift = _Tally()
    for _, found in _beside(earlier, model, tokenizer, batches):
        drift.add(*found)
    return drift.mean()


@torch.no_grad()
def compare_served(
    trained: Kept, merged: PreTrainedModel, tokenizer: Any, batches: list[list[Completion]], predict: Predict
) -> tuple[Drift, Drift]:
    """Compare the predictions of another program with those of the merged model, and with the kept ones of the trained model."""
    from_merged, from_trained = _Tally(), _Tally()
    for batch, (plain, before, tokens, mask) in _beside(trained, merged, tokenizer, batches):
        found = [predict(completion) for completion in batch]
        size = min(found[0].shape[1], plain.shape[2])  # either may have rows for tokens that the tokenizer lacks
        served = torch.zeros_like(plain[..., :size])
        for row, logits in zip(served, found, strict=True):
            row[-len(logits) :] = logits[:, :size]
        from_merged.add(served, plain[..., :size], tokens, mask)
        from_trained.add(served, before[..., :size], tokens, mask)
    return from_merged.mean(), from_trained.mean()


def _beside(
    earlier: Kept, model: PreTrainedModel, tokenizer: Any, batches: list[list[Completion]]
) -> Iterator[tuple[list[Completion], tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """Each batch with the logits of the model and of the kept predictions, (B, C, V), the tokens and their mask, (B, C)."""
    with _appending(earlier, model.get_output_embeddings()), inference(model):
        for batch in batches:
            logits, tokens, mask = completion_logits(model, tokenizer, batch)
            later, before = logits.chunk(2)
            yield batch, (later, before, tokens, mask)


@contextmanager
def _appending(earlier: Kept, head: nn.Module) -> Iterator[None]:
    """Within, the head returns the logits of the kept predictions after its own."""
    states = iter(earlier.states)

    def add_earlier(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        # `forward`, because the kept head may be this same module, with this hook.
        return torch.cat([output, earlier.head.forward(next(states).to(output.device)).to(output.dtype)])

    hook = head.register_forward_hook(add_earlier)
    try:
        yield
    finally:
        hook.remove()


class _Tally:
    """Differences of tokens and completions, batch by batch."""

    def __init__(self) -> None:
        self.kl: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self.sequences: list[Tensor] = []
        self.same_top: list[Tensor] = []

    def add(self, later: Tensor, earlier: Tensor, tokens: Tensor, mask: Tensor) -> None:
        divergence, drift, same = _compare(later, earlier, tokens)
        self.kl.append(divergence[mask])
        self.tokens.append(drift[mask].abs())
        self.sequences.append((drift * mask).sum(1).abs())
        self.same_top.append(same[mask])

    def mean(self) -> Drift:
        return Drift(
            kl=torch.cat(self.kl).double().mean().item(),
            largest_token=torch.cat(self.tokens).max().item(),
            largest_sequence=torch.cat(self.sequences).max().item(),
            same_top=torch.cat(self.same_top).double().mean().item(),
        )


def _compare(later: Tensor, earlier: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL(earlier‖later), log-ratio of the tokens and whether the most likely tokens agree, each (B, C); logits are (B, C, V)."""
    parts = []
    step = max(1, BLOCK // (later.shape[0] * later.shape[2]))
    for start in range(0, tokens.shape[1], step):
        q, p = (logits[:, start : start + step].log_softmax(-1) for logits in (later, earlier))
        there = tokens[:, start : start + step, None]
        ratio = (p.gather(2, there) - q.gather(2, there)).squeeze(2)
        parts.append(((p.exp() * (p - q)).sum(-1), ratio, p.argmax(-1) == q.argmax(-1)))
    return tuple(torch.cat(part, dim=1) for part in zip(*parts, strict=True))


def _batches(completions: list[Completion], vocabulary: int) -> list[list[Completion]]:
    """Batch completions of similar lengths, as many as the limit on logits allows."""
    batches: list[list[Completion]] = []
    for completion in sorted(completions, key=lambda c: len(c.ids), reverse=True):
        longest = len(batches[-1][0].ids) if batches else 0
        if not batches or 2 * (len(batches[-1]) + 1) * (longest + 1) * vocabulary > LARGEST_LOGITS:
            batches.append([])
        batches[-1].append(completion)
    return batches


def _without_adapter(head: nn.Module) -> nn.Module:
    return getattr(head, "original_module", None) or head.get_base_layer()


def _precision(model: PreTrainedModel, dtype: str) -> str:
    for bits in (4, 8):
        if getattr(model, f"is_loaded_in_{bits}bit", False):
            return f"{bits}-bit"
    return "quantised" if hasattr(model, "hf_quantizer") else str(dtype)


def _free() -> None:
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
