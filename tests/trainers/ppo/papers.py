"""The papers' formulas for advantages, and the gradient of the policy, without the code of the trainer."""

from typing import Any

import torch

from tests.trainers.ppo import separate
from tests.trainers.ppo.helpers import build, config, count_the
from trl_ext.rl import advantages

KL_COEF, COMPLETIONS, LONGEST = 0.3, 4, 6
"""Of the runs that are compared: the KL in the reward, completions per prompt, tokens per completion."""


def one_step(model: str, folder: Any, name: str, **changes: Any) -> Any:
    """A trainer after one step with an advantage; `before` holds the weights before it."""
    group = {"num_generations": COMPLETIONS} if advantages.describe(name).needs_groups else {}
    options = {key: changes.pop(key) for key in ("reward_funcs",) if key in changes}
    args = config(folder, **{"advantage": name, "max_steps": 1, "kl_coef": KL_COEF} | group | changes)
    trainer = build(model, args, **options)
    before = separate.WeightsBefore()
    trainer.add_callback(before)
    trainer.train()
    trainer.before = before.steps[0]
    return trainer


def by_prompt(batch: dict) -> dict:
    """The rows of a rollout, which are in random order, sorted so that those with the same prompt are neighbours."""
    order = torch.tensor(sorted(range(len(batch["prompt_ids"])), key=lambda i: batch["prompt_ids"][i].tolist()))
    return {name: value[order] if value.ndim else value for name, value in batch.items()}


def to_go(rewards: torch.Tensor) -> torch.Tensor:
    return rewards.flip(1).cumsum(1).flip(1)


def whitened(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    chosen = values[mask.bool()]
    return (values - chosen.mean()) / (chosen.var() + 1e-8).sqrt() * mask


def expected(name: str, batch: dict, tokenizer, greedy: torch.Tensor | None = None) -> torch.Tensor:
    """The papers' formulas, written for rows of which those with the same prompt are neighbours."""
    mask = batch["completion_mask"].double()
    pairs = zip(batch["completion_ids"], mask, strict=True)
    texts = [tokenizer.decode(ids[m.bool()], skip_special_tokens=True) for ids, m in pairs]
    scores = torch.tensor(count_the(texts)).double()
    rewards = -KL_COEF * (batch["old_per_token_logps"] - batch["ref_per_token_logps"]).double() * mask
    rewards[torch.arange(len(mask)), mask.sum(1).long() - 1] += scores
    if name == "reinforce_pp":
        return whitened(to_go(rewards), mask)
    if name == "remax":
        return (to_go(rewards) - greedy[:, None]) * mask
    groups, lengths = rewards.sum(1).view(-1, COMPLETIONS), mask.sum(1).view(-1, COMPLETIONS)
    centred = groups - groups.mean(1, keepdim=True)
    others = (groups.sum(1, keepdim=True) - groups) / (COMPLETIONS - 1)
    found = {
        "rloo": groups - others,
        "dr_grpo": centred,
        "reinforce_pp_baseline": centred,
        "grpo": centred / (groups.std(1, keepdim=True) + 1e-4),
        "opo": groups - (lengths * groups).sum(1, keepdim=True) / lengths.sum(1, keepdim=True),
    }[name]
    found = found.flatten()[:, None] * mask
    return whitened(found, mask) if name == "reinforce_pp_baseline" else found


def policy_gradient(model: str, weights: dict, batches: list[dict], aggregation: str) -> dict[str, torch.Tensor]:
    """On a fresh rollout, where every ratio is 1: −Â·∇log π per token, added up as the settings say."""
    policy = separate._model(model, weights, "default", None)
    tokens = torch.cat([batch["loss_mask"].sum(1) for batch in batches]).double().mean()
    for batch in batches:
        mask = batch["loss_mask"]
        lengths = mask.sum(1).clamp(min=1)
        weight = {"token": 1 / tokens, "sequence": 1 / lengths, "constant": 1 / LONGEST, "sum": 1.0}
        losses = -(batch["token_advantages"] * separate._logps(policy, batch) * mask).sum(1)
        ((losses * weight[aggregation]).mean() / len(batches)).backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
