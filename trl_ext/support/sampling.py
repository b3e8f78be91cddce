"""Sample completions in batches, and compute their log-probabilities under the active model."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from trl_ext.support.batches import in_batches
from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.support.gumbel import GumbelNoise, row_seeds

Messages = list[dict[str, str]]

Watched = Callable[[Iterable[Any], int], Iterable[Any]]
"""Shows how far a loop over so many items is."""


def unwatched(items: Iterable[Any], total: int) -> Iterable[Any]:
    """The items, without showing anything."""
    return items


class Completion(NamedTuple):
    """One sampled completion: token ids of the prompt, token ids of the completion (with the end token, if sampled), its text."""

    prompt_ids: list[int]
    ids: list[int]
    text: str
    is_ended: bool


def as_messages(prompt: str | Messages) -> Messages:
    """A text becomes a conversation of one user message; a conversation is returned as it is."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Messages | list[int]],
    *,
    seed: int,
    max_new_tokens: int,
    batch_size: int = 256,
    temperature: float = 1.0,
    watched: Watched = unwatched,
) -> list[Completion]:
    """Sample one completion per prompt. See `sample_each`."""
    settings = {"seed": seed, "max_new_tokens": max_new_tokens, "batch_size": batch_size, "temperature": temperature}
    return list(watched(sample_each(model, tokenizer, prompts, **settings), len(prompts)))


def sample_each(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Messages | list[int]],
    *,
    seed: int,
    max_new_tokens: int,
    batch_size: int = 256,
    temperature: float = 1.0,
) -> Iterator[Completion]:
    """Sample one completion per prompt, without top-k and top-p; at temperature 1 from the model's own distribution.

    Completions come in the order of the prompts, those of a batch as soon as it is complete. A caller that is interrupted has
    all earlier ones. Where memory runs out, batches are halved.

    A completion depends on the model, the temperature, `seed`, the token ids of its prompt and, if the prompt occurs several
    times, on which of these it is. It does not depend on `batch_size`, on other prompts or on their order, except for rounding:
    logits differ in their last digits between shapes of a batch, and so may a token whose noisy logit is that close to
    another's, with all that follow it. Random numbers are the same for any model, so two models give the same completion as
    long as their distributions agree. CPUs and GPUs have different random numbers. The global random state is not used.

    Args:
        model: A causal language model. It is in evaluation mode while a batch is sampled.
        tokenizer: Its own, with a padding token.
        prompts: Each is a text, a conversation, or token ids.
        seed: Random seed.
        max_new_tokens: Maximum length of a completion.
        batch_size: Completions sampled together.
        temperature: Of the distribution; 0 for the most probable token at each position.

    Raises:
        UserError: The model computed NaN or infinite logits.
    """
    rows = [_prompt_ids(prompt, tokenizer) for prompt in prompts]
    end_ids = end_ids_of(model, tokenizer)
    config = GenerationConfig(
        do_sample=False,  # the noise samples
        # Settings left out here would be taken from the model's own configuration.
        num_beams=1,
        num_return_sequences=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_ids),
        pad_token_id=tokenizer.pad_token_id,
    )

    @torch.no_grad()
    def complete(batch: Sequence[tuple[list[int], int]]) -> list[Completion]:
        prompt_ids, seeds = zip(*batch, strict=True)
        input_ids, attention_mask = _left_padded(prompt_ids, tokenizer.pad_token_id, model.device)
        noise = GumbelNoise(seeds, temperature, model.device) if temperature else None
        with inference(model):
            output = model.generate(
                input_ids=input_ids,
                attention_mask=attention_mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([noise] if noise else []),
            )
        if noise:
            noise.check()
        completions = []
        for row, generated in zip(prompt_ids, output[:, input_ids.shape[1] :].tolist(), strict=True):
            end = next((i for i, token in enumerate(generated) if token in end_ids), None)
            ids = generated if end is None else generated[: end + 1]
            completions.append(Completion(row, ids, tokenizer.decode(ids, skip_special_tokens=True), end is not None))
        return completions

    yield from in_batches(list(zip(rows, row_seeds(seed, rows), strict=True)), batch_size, complete)


@torch.no_grad()
def logps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    completions: list[Completion],
    batch_size: int = 64,
) -> torch.Tensor:
    """Log-probability of each completion given its prompt, summed over its tokens, float32 of shape (N,)."""
    sums = []
    with inference(model):
        for start in range(0, len(completions), batch_size):
            chunk = completions[start : start + batch_size]
            logits, tokens, mask = completion_logits(model, tokenizer, chunk)
            per_token = logits.log_softmax(-1).gather(2, tokens.unsqueeze(2)).squeeze(2)
            sums.append((per_token * mask).sum(1).cpu())
    return torch.cat(sums)


def completion_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, completions: list[Completion]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Float32 logits (B, C, V) that predict each token of the completions, the tokens (B, C) and their mask (B, C).

    Differentiable; every completion ends at the right edge.
    """
    input_ids, attention_mask = _left_padded(
        [completion.prompt_ids + completion.ids for completion in completions], tokenizer.pad_token_id, model.device
    )
    longest = max(len(completion.ids) for completion in completions)
    logits = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=longest + 1,
        use_cache=False,
    ).logits[:, :-1]
    lens = torch.tensor([len(completion.ids) for completion in completions], device=model.device)
    mask = torch.arange(longest, device=model.device) >= longest - lens.unsqueeze(1)
    return logits.float(), input_ids[:, -longest:], mask


@contextlib.contextmanager
def inference(model: PreTrainedModel) -> Iterator[None]:
    """Put the model in evaluation mode for the block, without changing a 4-bit base, then restore its mode."""
    keep_exact_cpu_kernels(model)
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _prompt_ids(prompt: str | Messages | list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if isinstance(prompt, list) and isinstance(prompt[0], int):
        return prompt
    return tokenizer.apply_chat_template(as_messages(prompt), add_generation_prompt=True, return_dict=False)


def end_ids_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokenizer's end token and those the model itself stops at (chat models often name several)."""
    own = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}


def _left_padded(rows: Sequence[list[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (B, T), every row ending at the right edge."""
    width = max(map(len, rows))
    ids = [[pad_id] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
