"""Sample n completions of each prompt, and keep those of a batch on disk as soon as they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from trl_ext.judging.judge import Prompt
from trl_ext.judging.scorers import prompt_ids
from trl_ext.pairing.group import Completion, Group
from trl_ext.pairing.kept import Kept
from trl_ext.pairing.policy import Policy
from trl_ext.pairing.settings import Sampling
from trl_ext.support.sampling import sample
from trl_ext.trainers.common.out_of_memory import reported

BATCH = 64
"""Completions sampled together unless the user gives a number; halved, repeatedly if need be, where memory runs out."""

Watched = Callable[[Iterator, int, str], Iterator]
"""Iterates over so many items and shows the progress under a title."""


def sample_groups(
    policy: Policy,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    kept: Kept,
    watched: Watched,
    batch_size: int = BATCH,
) -> None:
    """Sample the completions that are missing.

    Batches are cut by the whole list of prompts, so a run that was interrupted samples the same batches as one that was not, and
    rounding is the same too. A completion depends on the seed, on its prompt and on its number among those of the prompt; see
    `support.sampling.sample_each`.

    Args:
        policy: Loaded only if a completion is missing.
        prompts: Distinct ones.
        sampling: How.
        kept: Gets the completions.
        watched: Shows the progress.
        batch_size: Completions sampled together.

    Raises:
        UserError: Memory runs out with a single completion, or the model computes NaN.
    """
    size = max(1, batch_size // sampling.num_generations)
    batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    missing = [batch for batch in batches if any(prompt not in kept for prompt in batch)]

    def sampled() -> Iterator[Prompt]:
        for batch in missing:
            kept.add(zip(batch, _complete(policy, batch, sampling, batch_size), strict=True))
            yield from batch

    if missing:
        policy.sampler()  # before the progress of sampling is shown
        n = sampling.num_generations
        for _ in watched(sampled(), sum(map(len, missing)), f"prompts with {n} completions"):
            pass
        policy.forget_sampler()


def group_of(prompt: Prompt, kept: Kept) -> Group:
    """A prompt with its completions."""
    return Group(prompt, [Completion(*each) for each in kept[prompt]])


def _complete(
    policy: Policy, prompts: Sequence[Prompt], sampling: Sampling, batch_size: int
) -> list[list[Completion]]:
    tokenizer, n = policy.tokenizer(), sampling.num_generations
    rows = [ids for prompt in prompts for ids in [prompt_ids(prompt, tokenizer)] * n]
    with reported("while completions were sampled", "lower `--max_new_tokens`, or free memory on the device"):
        found = sample(
            policy.sampler(),
            tokenizer,
            rows,
            seed=sampling.seed,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            batch_size=batch_size,
        )
    each = [Completion(one.text, len(one.ids), one.is_ended) for one in found]
    return [each[start : start + n] for start in range(0, len(each), n)]
