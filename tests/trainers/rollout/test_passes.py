"""Forward passes that a rollout takes, and that leaving one out changes nothing: what it computed is observed in the update."""

from contextlib import contextmanager

import pytest
import torch

from tests.trainers.helpers import lora, relative_difference, weights
from tests.trainers.parity import Completions, count_the, settings
from tests.trainers.ppo.helpers import build
from trl_ext import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, RLOOConfig, RLOOTrainer

GRPO, RLOO, PPO = (GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig), (PPOTrainer, PPOConfig)
ONE_STEP = {"num_iterations": 1, "row_tokens": 4096, "gradient_checkpointing": False, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}  # fmt: skip
IN_LOSS = {"kl_placement": "loss", "kl_estimator": "k2", "kl_coef": 0.3, "num_generations": 4}


def trainer_of(kind, model, folder, *, steps=2, **changes):
    """A trainer whose completions are given, eight per rollout, in a row of their own."""
    cls, config = kind
    given = {} if "disable_dropout" not in changes else {"peft_config": lora(lora_dropout=0.1)}
    args = config(**settings(folder, **{**ONE_STEP, "max_steps": steps, **changes}))
    trainer = build(model, args, cls=cls, reward_funcs=count_the, **given)
    sample = Completions()
    trainer._generate_single_turn = lambda ids, *args, **kwargs: sample(ids)
    return trainer


@contextmanager
def counted(trainer):
    """Context in which forward passes are counted; the list that is given holds the number so far."""
    found = [0]

    def count(module, args):
        found[0] += 1

    handle = trainer.model.get_base_model().model.layers[0].register_forward_pre_hook(count)
    try:
        yield found
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        (GRPO, {"beta": 0.0}, 1),  # the update's
        (GRPO, {"beta": 0.1}, 2),  # and the reference's
        (GRPO, {"beta": 0.0, "num_iterations": 2}, 3),  # the policy's, and two updates
        (GRPO, {"beta": 0.0, "gradient_accumulation_steps": 1, "steps_per_generation": 2}, 3),
        (GRPO, {"beta": 0.1, "disable_dropout": False}, 3),  # the policy's has other dropout masks
        (RLOO, {"beta": 0.0}, 1),
        (RLOO, {"beta": 0.1}, 3),  # the KL in the reward is needed before the update
        (PPO, {"num_generations": 1}, 5),  # and two of the critic
        (PPO, {"num_generations": 1, "kl_coef": 0.0}, 3),
        (PPO, {**IN_LOSS, "kl_controller": "adaptive", "kl_target": 1.0}, 5),
    ],
)
def test_a_rollout_takes_no_pass_that_nothing_reads(kind, changes, expected, tiny_model, tmp_path):
    uses = changes.get("num_iterations", 1) * changes.get("steps_per_generation", 1)
    trainer = trainer_of(kind, tiny_model, tmp_path, steps=uses, **changes)
    trainer.train()  # the first rollout also proves packing
    with counted(trainer) as passes:
        trainer.train()
    assert passes[0] == expected


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (GRPO, {"loss_type": "dapo", "beta": 0.3, "mask_truncated_completions": True}),
        (GRPO, {"loss_type": "vespo", "beta": 0.3}),
        (RLOO, {"beta": 0.0}),
        (PPO, IN_LOSS),
    ],
)
def test_weights_and_metrics_are_those_of_a_rollout_with_all_passes(kind, changes, tiny_model, tmp_path):
    """A function that is assigned to `policy_loss` may read all log-probabilities, so that all passes are run."""
    found = []
    for name in ("left out", "run"):
        trainer = trainer_of(kind, tiny_model, tmp_path / name, **changes)
        if name == "run":
            plain = trainer.update.policy_loss
            trainer.update.policy_loss = lambda batch, sums, plain=plain: plain(batch, sums)
        trainer.train()
        assert ("old_per_token_logps" in trainer._buffered_inputs[0]) == (name == "run")
        found.append(trainer)
    ours, theirs = found
    assert relative_difference(weights(ours), weights(theirs)) < 1e-6
    for log, expected in zip(ours.recorder.logs, theirs.recorder.logs, strict=True):
        lacking = set() if trainer.args.kl_coef else {"kl/k1", "kl/k2", "kl/k3", "kl/sequence"}
        assert expected.keys() - log.keys() == lacking and log.keys() <= expected.keys()
        for name in log.keys() - {"step_time"}:
            if isinstance(log[name], float) and "runtime" not in name and "second" not in name:
                assert log[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name


def test_an_evaluation_runs_the_policy_once(tiny_model, tmp_path):
    trainer = trainer_of(GRPO, tiny_model, tmp_path, beta=0.0, per_device_eval_batch_size=8)
    trainer.rows.is_packed = False  # known, so that nothing is proved
    with counted(trainer) as passes:
        found = trainer.evaluate(trainer.train_dataset.select(range(2)))
    assert passes[0] == 1 and found["eval_entropy"] > 0 and "eval_kl/sequence" not in found


def test_the_correction_reads_the_update_s_own_pass(tiny_model, tmp_path):
    """Weights and distances are those of the policy that is trained to the weights that sampled, which are given here."""
    trainer = trainer_of(GRPO, tiny_model, tmp_path, steps=1, beta=0.3, loss_type="grpo")
    sample, sampled = Completions(), []

    def give(trainer, generate, prompts):
        ids = sample(prompts)
        sampled.append(-torch.rand(len(ids), 6, generator=torch.Generator().manual_seed(1)) * 6)
        return ids, sampled[0]

    del vars(trainer)["_generate_single_turn"]
    trainer.sampler.sample = give
    batches, score = [], trainer.update.score

    def seen(batch):
        found = score(batch)
        batches.append((found.logps.detach(), batch))
        return found

    trainer.update.score = seen
    trainer.train()
    log, ((logps, batch),) = trainer.recorder.logs[0], batches
    mask, given = batch["loss_mask"].bool(), batch["sampling_logps"]
    apart = (logps.double() - given.double())[mask]
    ratio = apart.exp().clamp(max=3)
    assert log["sampling/logp_difference/mean"] == pytest.approx(apart.abs().mean().item(), rel=1e-5)
    assert log["sampling/logp_difference/max"] == pytest.approx(apart.abs().max().item(), rel=1e-5)
    assert log["sampling/weight/mean"] == pytest.approx(ratio.mean().item(), rel=1e-5)
    # The ratio π/π_old is 1, so that the loss of a token is −weight·advantage.
    assert log["policy_loss"] == pytest.approx(
        -(ratio * batch["token_advantages"][mask]).mean().item(), rel=1e-4, abs=1e-6
    )
