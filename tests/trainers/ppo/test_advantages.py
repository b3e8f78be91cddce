"""Each advantage in the trainer: the advantages of a real rollout, the gradient, and nothing of a critic without one."""

import pytest
import torch

from tests.trainers.helpers import relative_difference
from tests.trainers.ppo import resuming
from tests.trainers.ppo.helpers import build, config, count_the, rollout
from tests.trainers.ppo.papers import LONGEST, by_prompt, expected, one_step, policy_gradient
from trl_ext.rl import advantages
from trl_ext.trainers.ppo.equal_scores import share_of_ties, share_without_deviation

WITHOUT_CRITIC = [name for name in advantages.available() if not advantages.describe(name).needs_critic]


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


@pytest.mark.parametrize("name", WITHOUT_CRITIC)
def test_advantages_and_gradient_are_those_of_the_paper(model, tmp_path, name):
    trainer = one_step(model, tmp_path, name)
    batches = trainer._buffered_inputs
    gradients = trainer.recorder.gradients[0]
    assert (
        relative_difference(gradients, policy_gradient(model, trainer.before, batches, trainer.args.loss_aggregation))
        < 1e-4
    )
    batch = by_prompt(rollout(trainer))
    assert batch["token_advantages"].abs().max() > 0.1
    greedy = greedy_scores(trainer, batch) if name == "remax" else None
    formula = expected(name, batch, trainer.processing_class, greedy)
    assert torch.allclose(batch["token_advantages"].double(), formula, atol=2e-5)


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
    assert ("groups/ties" in log) == ("frac_reward_zero_std" in log) == (name == "rloo")
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
    assert log["groups/ties"] == log["frac_reward_zero_std"] == 1 and log["score/std"] > 0
    assert all(torch.tensor(float(value)).isfinite() for value in log.values())


def test_the_share_of_ties_by_hand():
    nan = float("nan")
    groups = [[1, 1, 1], [1, 2, 1], [nan, 3, 3], [nan, nan, 3], [nan, 1, 2], [nan, nan, nan]]
    assert share_of_ties(torch.tensor(groups)) == pytest.approx(4 / 6)
    assert share_without_deviation(torch.tensor(groups)) == pytest.approx(2 / 6)


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
