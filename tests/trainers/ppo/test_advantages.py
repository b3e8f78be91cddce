"""Each advantage in the trainer: the advantages of a real rollout, the gradient, and nothing of a critic without one."""

import pytest
import torch

from tests.trainers.helpers import relative_difference
from tests.trainers.ppo import resuming, separate
from tests.trainers.ppo.helpers import build, config, count_the, rollout
from trl_ext.rl import advantages
from trl_ext.trainers.ppo.update import share_of_equal_groups

KL_COEF, COMPLETIONS, LONGEST = 0.3, 4, 6
WITHOUT_CRITIC = [name for name in advantages.available() if not advantages.describe(name).needs_critic]


def one_step(model, folder, name, **changes):
    group = {"num_generations": COMPLETIONS} if advantages.describe(name).needs_groups else {}
    options = {key: changes.pop(key) for key in ("reward_funcs",) if key in changes}
    args = config(folder, **{"advantage": name, "max_steps": 1, "kl_coef": KL_COEF} | group | changes)
    trainer = build(model, args, **options)
    before = separate.WeightsBefore()
    trainer.add_callback(before)
    trainer.train()
    trainer.before = before.steps[0]
    return trainer


def to_go(rewards: torch.Tensor) -> torch.Tensor:
    return rewards.flip(1).cumsum(1).flip(1)


def whitened(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    chosen = values[mask.bool()]
    return (values - chosen.mean()) / (chosen.var() + 1e-8).sqrt() * mask


def expected(name: str, trainer, batch: dict) -> torch.Tensor:
    """The papers' formulas, written for rows of which those with the same prompt are neighbours."""
    mask = batch["completion_mask"].double()
    pairs = zip(batch["completion_ids"], mask, strict=True)
    texts = [trainer.processing_class.decode(ids[m.bool()], skip_special_tokens=True) for ids, m in pairs]
    scores = torch.tensor(count_the(texts)).double()
    rewards = -KL_COEF * (batch["old_per_token_logps"] - batch["ref_per_token_logps"]).double() * mask
    rewards[torch.arange(len(mask)), mask.sum(1).long() - 1] += scores
    if name == "reinforce_pp":
        return whitened(to_go(rewards), mask)
    if name == "remax":
        return (to_go(rewards) - greedy_scores(trainer, batch)[:, None]) * mask
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


def greedy_scores(trainer, batch: dict) -> torch.Tensor:
    """By a plain loop of argmax, from the weights before the step."""
    trainer.model.load_state_dict(trainer.before, strict=False)
    tokenizer, texts = trainer.processing_class, []
    for padded, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True):
        ids = padded[mask.bool()].unsqueeze(0)
        start = ids.size(1)
        while ids.size(1) < start + LONGEST and ids[0, -1].item() not in trainer.eos_token_ids * (ids.size(1) > start):
            with torch.no_grad():
                ids = torch.cat([ids, trainer.model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
        texts.append(tokenizer.decode(ids[0, start:], skip_special_tokens=True))
    return torch.tensor(count_the(texts)).double()


def policy_gradient(model: str, trainer, batches: list[dict]) -> dict[str, torch.Tensor]:
    """On a fresh rollout, where every ratio is 1: −Â·∇log π per token, added up as the settings say."""
    policy = separate._model(model, trainer.before, "default", None)
    tokens = torch.cat([batch["loss_mask"].sum(1) for batch in batches]).double().mean()
    for batch in batches:
        mask = batch["loss_mask"]
        lengths = mask.sum(1).clamp(min=1)
        weight = {"token": 1 / tokens, "sequence": 1 / lengths, "constant": 1 / LONGEST, "sum": 1.0}
        losses = -(batch["token_advantages"] * separate._logps(policy, batch) * mask).sum(1)
        ((losses * weight[trainer.args.loss_aggregation]).mean() / len(batches)).backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", WITHOUT_CRITIC)
def test_advantages_and_gradient_are_those_of_the_paper(model, tmp_path, name):
    trainer = one_step(model, tmp_path, name)
    batches = trainer._buffered_inputs
    gradients = trainer.recorder.gradients[0]
    assert relative_difference(gradients, policy_gradient(model, trainer, batches)) < 1e-4
    batch = rollout(trainer)  # in random order
    order = torch.tensor(sorted(range(len(batch["prompt_ids"])), key=lambda i: batch["prompt_ids"][i].tolist()))
    batch = {name: value[order] if value.ndim else value for name, value in batch.items()}
    assert batch["token_advantages"].abs().max() > 0.1
    assert torch.allclose(batch["token_advantages"].double(), expected(name, trainer, batch), atol=2e-5)


@pytest.mark.parametrize("name", ["rloo", "remax"])
def test_nothing_of_a_critic_is_there(model, tmp_path, name):
    trainer = one_step(model, tmp_path, name, max_grad_norm=1.0)
    assert set(trainer.model.peft_config) == {"default"} and not hasattr(trainer.model, "value_head")
    assert len(trainer.optimizer.param_groups) <= 2
    log = trainer.recorder.logs[0]
    of_critic = {
        "explained_variance",
        "values/mean",
        "returns/mean",
        "value_loss",
        "clip_fraction/value",
        "grad_norm/critic",
    }
    assert not of_critic & log.keys() and {"policy_loss", "advantages/std", "shaped_reward"} <= log.keys()
    assert ("frac_reward_zero_std" in log) == (name == "rloo")
    trainer.save_model(str(tmp_path / "saved"))
    assert not [path for path in (tmp_path / "saved").iterdir() if path.is_dir()]
    batch = rollout(trainer)
    deviation = batch["token_advantages"][batch["loss_mask"].bool()].std()
    assert log["advantages/std"] == pytest.approx(deviation.item(), rel=1e-4)


@pytest.mark.parametrize("name", [name for name in WITHOUT_CRITIC if advantages.describe(name).needs_groups])
def test_equal_rewards_in_every_group_teach_nothing_and_break_nothing(model, tmp_path, name):
    def by_prompt(prompts, **kwargs):
        return [float(len(prompt)) for prompt in prompts]

    trainer = one_step(model, tmp_path, name, kl_coef=0.0, reward_funcs=by_prompt)
    assert all(gradient.abs().max() < 1e-6 for gradient in trainer.recorder.gradients[0].values())
    log = trainer.recorder.logs[0]
    assert log["frac_reward_zero_std"] == 1 and log["score/std"] > 0
    assert all(torch.tensor(float(value)).isfinite() for value in log.values())


def test_the_share_of_equal_groups_by_hand():
    nan = float("nan")
    groups = [[1, 1, 1], [1, 2, 1], [nan, 3, 3], [nan, nan, 3], [nan, 1, 2], [nan, nan, nan]]
    assert share_of_equal_groups(torch.tensor(groups).flatten(), 3) == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("settings", "expected_low", "expected_high"),
    [({"epsilon": 1e-3, "epsilon_high": 10.0}, True, False), ({"epsilon": 0.999, "epsilon_high": 1e-3}, False, True)],
)
def test_clipping_is_logged_by_its_side(model, tmp_path, settings, expected_low, expected_high):
    trainer = one_step(model, tmp_path, "rloo", num_iterations=2, learning_rate=0.5, max_steps=2, **settings)
    fresh, stale = trainer.recorder.logs
    assert fresh["clip_fraction/low"] == fresh["clip_fraction/high"] == 0
    assert (stale["clip_fraction/low"] > 0, stale["clip_fraction/high"] > 0) == (expected_low, expected_high)
    assert stale["clip_fraction/policy"] == pytest.approx(stale["clip_fraction/low"] + stale["clip_fraction/high"])


# Checkpoints --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITHOUT_CRITIC)
def test_a_run_resumed_within_a_rollout_is_the_uninterrupted_run(model, tmp_path, name):
    group = {"num_generations": 2} if advantages.describe(name).needs_groups else {}
    settings = resuming.SETTINGS | {"max_steps": 3, "save_steps": 2, "advantage": name, **group}

    def trained(folder, checkpoint=None, **changes):
        return resuming.trained(build(model, config(folder, **settings | changes)), checkpoint)

    whole = trained(tmp_path / "whole")
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert not (checkpoint / "critic").exists()
    resumed = trained(tmp_path / "resumed", str(checkpoint), save_strategy="no")
    assert len(resumed.recorder.logs) == 1
    resuming.check_same(resumed, resuming.weights(whole), whole.recorder.logs)
