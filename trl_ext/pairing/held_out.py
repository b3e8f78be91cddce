"""Measure a model on held-out prompts: the mean score of its completions, and their KL from the base."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from peft import PeftModel

from trl_ext.evaluation.prompts import Prompts
from trl_ext.judging.judge import Prompt
from trl_ext.judging.open_judge import Beside
from trl_ext.judging.scorers import prompt_ids
from trl_ext.pairing.group import Completion, Group
from trl_ext.pairing.policy import Policy
from trl_ext.pairing.scoring import Scoring
from trl_ext.pairing.settings import Sampling
from trl_ext.reference import switching
from trl_ext.support import intervals, sampling
from trl_ext.support.batches import in_batches
from trl_ext.trainers.common.out_of_memory import reported

SEED = 0
"""Of the completions, whatever the seed of the training: the same as that of `trl-ext eval`."""
MOST = 256
"""Prompts, with one completion each."""
LOGITS = 2**27
"""Largest number of logits of a forward pass: 0.5 GiB in float32."""

Watched = Any


def measure(
    policy: Policy, prompts: Prompts, how: Sampling, scoring: Scoring, watched: Watched, title: str
) -> dict[str, Any]:
    """Sample a completion of each prompt at temperature 1, score it, and compare its log-probability with the base's.

    Args:
        policy: The model. Without an adapter it is the base, and its KL is 0.
        prompts: Held out from training.
        how: Largest length of the completions.
        scoring: What scores them. A judge that compares gives no score to single completions.
        watched: Shows the progress.
        title: What the progress counts.

    Returns:
        `n`, `score` (or null), `kl`: the mean of log π − log π_base in nats per completion, `tokens`, and `ended`, the share of
        completions with an end. Estimates have `value`, `low` and `high`.
    """
    model, tokenizer = policy.load(), policy.tokenizer()
    with reported("while completions were sampled", "lower `--max_new_tokens`, or free memory on the device"):
        found = list(
            watched(
                sampling.sample_each(
                    model,
                    tokenizer,
                    [prompt_ids(prompt, tokenizer) for prompt in prompts.prompts],
                    seed=SEED,
                    max_new_tokens=how.max_new_tokens,
                    batch_size=64,
                ),
                len(prompts.prompts),
                title,
            )
        )
    has_adapter = isinstance(model, PeftModel)
    ratios = log_ratios(model, tokenizer, found) if has_adapter else [0.0] * len(found)
    scores = [] if scoring.compares else _scores(policy, prompts, found, scoring)
    return {
        "n": len(found),
        "score": intervals.score(scores)._asdict() if scores else None,
        "kl": intervals.mean(ratios)._asdict(),
        "tokens": intervals.mean([len(each.ids) for each in found])._asdict(),
        "ended": intervals.share(sum(each.is_ended for each in found), len(found))._asdict(),
    }


def _scores(policy: Policy, prompts: Prompts, found: list[sampling.Completion], scoring: Scoring) -> list[float]:
    """The scores of those completions that a source applies to."""
    beside = Beside(policy.tokenizer, policy.load, policy.release, prompts.prompts, prompts.columns)
    score = scoring.open(beside, keep_truncated=True)
    groups = [_alone(prompt, one) for prompt, one in zip(prompts.prompts, found, strict=True)]
    return [value for (value,) in score(groups) if value is not None]


def _alone(prompt: Prompt, one: sampling.Completion) -> Group:
    return Group(prompt, [Completion(one.text, len(one.ids), one.is_ended)])


def log_ratios(model: PeftModel, tokenizer: Any, found: list[sampling.Completion]) -> list[float]:
    """log π − log π_base of each completion, in nats summed over its tokens. The base is the model with its adapter off."""
    limit = max(1, LOGITS // model.get_base_model().config.get_text_config().vocab_size)
    sums = []
    for context in (contextlib.nullcontext, lambda: switching.adapter_off(model)):
        with context(), torch.no_grad():
            sums.append(
                list(
                    in_batches(
                        found,
                        limit,
                        lambda batch: sampling.logps(model, tokenizer, list(batch), len(batch)).tolist(),
                        lambda one: len(one.ids) + 1,
                    )
                )
            )
    return [of_policy - of_base for of_policy, of_base in zip(*sums, strict=True)]
