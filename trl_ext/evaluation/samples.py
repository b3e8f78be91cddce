"""Sample completions of a model and its reference; measure their KL, lengths and rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from trl_ext.evaluation.reward_functions import RewardFunctions
from trl_ext.evaluation.scores import Scored, Scorer
from trl_ext.rl import kl
from trl_ext.runs.loaded import Opened
from trl_ext.support import intervals
from trl_ext.support.intervals import Estimate
from trl_ext.support.sampling import Completion, sample
from trl_ext.trainers.common.out_of_memory import reported

BATCH = 64
"""Completions sampled at once; halved, repeatedly if need be, where memory runs out and freeing cached memory does not help."""

EXAMPLES = 32
"""Completions kept in a record."""


@dataclass(frozen=True)
class Sampling:
    """How completions of the policy and of its reference are sampled, at temperature 1.

    Attributes:
        n: Maximum number of completions, each for a different prompt; 0 for none.
        max_new_tokens: Maximum length of a completion.
        seed: Random seed.
    """

    n: int = 256
    max_new_tokens: int = 128
    seed: int = 0


def evaluate_samples(opened: Opened, made: Scorer, sampling: Sampling, functions: RewardFunctions) -> dict[str, Any]:
    """Estimate KL(π‖ref) from completions of the policy; measure lengths and rewards of both models' completions.

    Args:
        opened: The model and its reference.
        made: Scores completions under both; its dataset has the prompts.
        sampling: How many completions are sampled, and how.
        functions: Reward functions by name.

    Returns:
        `kl` in nats per completion by `k1` and `k3` (summed over tokens, from the policy's own completions). For the tuned
        model and the base: `log_ratio` in nats per completion, `tokens`, `ended` (share that ended with an end token), the
        mean of every reward under `scores`, and the first `EXAMPLES` completions with their prompts and rewards.
    """
    data = made.train_dataset
    texts = {tuple(ids): prompt for ids, prompt in zip(data["prompt_ids"], data["prompt"], strict=True) if ids}
    prompts, asked = [list(ids) for ids in texts][: sampling.n], list(texts.values())[: sampling.n]
    tuned = _complete(opened.model, opened.tokenizer, prompts, sampling)
    with opened.reference() as model:
        base = _complete(model, opened.tokenizer, prompts, sampling)
    scored = made.scored_whole(prompts, [(one.ids, other.ids) for one, other in zip(tuned, base, strict=True)])
    of_tuned, of_base = zip(*scored, strict=True)
    ratios = {"tuned": list(map(_log_ratio, of_tuned)), "base": list(map(_log_ratio, of_base))}
    k3 = [kl.k3(*map(torch.from_numpy, each)).double().sum().item() for each in of_tuned]
    both = {"tuned": tuned, "base": base}
    scores = {
        who: {name: _scores(each, asked, found) for name, each in functions.items()} for who, found in both.items()
    }
    return {
        "n": len(prompts),
        "max_new_tokens": sampling.max_new_tokens,
        "seed": sampling.seed,
        "kl": {"k1": intervals.mean(ratios["tuned"]), "k3": intervals.mean(k3)},
        "log_ratio": {name: intervals.mean(values) for name, values in ratios.items()},
        "tokens": {name: _lens(found) for name, found in both.items()},
        "ended": {name: _ended(found) for name, found in both.items()},
        "scores": {name: {who: intervals.score(scores[who][name]) for who in both} for name in functions},
        "examples": {who: _examples(asked, found, scores[who]) for who, found in both.items()},
    }


def _scores(function: Callable[..., list[float]], prompts: list, completions: list[Completion]) -> list[float]:
    """Rewards; completions are given in the form of their prompts: text, or a conversation of one message."""
    given = [
        completion.text if isinstance(prompt, str) else [{"role": "assistant", "content": completion.text}]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return list(map(float, function(prompts=prompts, completions=given)))


def _examples(prompts: list, completions: list[Completion], scores: dict[str, list[float]]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": prompt if isinstance(prompt, str) else prompt[-1]["content"],
            "text": completion.text,
            "scores": {name: values[i] for name, values in scores.items()},
        }
        for i, (prompt, completion) in enumerate(list(zip(prompts, completions, strict=True))[:EXAMPLES])
    ]


def _log_ratio(scored: Scored) -> float:
    """log π − log π_ref, summed over the completion."""
    return float(scored.policy.sum(dtype=float) - scored.reference.sum(dtype=float))


def _complete(model: Any, tokenizer: Any, prompts: list[list[int]], sampling: Sampling) -> list[Completion]:
    """Sample a completion for each prompt.

    Raises:
        UserError: Memory runs out with a single completion.
    """
    limits = {"seed": sampling.seed, "max_new_tokens": sampling.max_new_tokens}
    with reported("while completions were sampled", "lower `--max_new_tokens`, or free memory on the device"):
        return sample(model, tokenizer, prompts, batch_size=BATCH, **limits)


def _lens(completions: list[Completion]) -> Estimate:
    return intervals.mean([len(completion.ids) for completion in completions])


def _ended(completions: list[Completion]) -> Estimate:
    return intervals.share(sum(completion.is_ended for completion in completions), len(completions))
