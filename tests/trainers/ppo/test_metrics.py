"""What PPO logs, by hand from the rollout, and its evaluation."""

import pytest
import torch

from tests.trainers.ppo.helpers import build, config, count_the, rollout, trained


def test_metrics_are_means_over_what_they_say(model, tmp_path):
    trainer = trained(model, tmp_path, kl_coef=0.3, missing_eos_penalty=1.0)
    log, batch = trainer.recorder.logs[0], rollout(trainer)
    mask = batch["completion_mask"].double()
    d = (batch["old_per_token_logps"] - batch["ref_per_token_logps"]).double() * mask
    tokens, lens = mask.sum(), mask.sum(1)
    ends = torch.isin(batch["completion_ids"], torch.tensor([3, *range(60, 99)])) & mask.bool()
    residuals = (batch["returns"] - batch["values"])[mask.bool()]
    texts = trainer.processing_class.batch_decode(
        [ids[m.bool()] for ids, m in zip(batch["completion_ids"], mask, strict=True)], skip_special_tokens=True
    )
    scores = torch.tensor(count_the(texts)).double()
    expected = {
        "kl/k1": d.sum() / tokens,
        "kl/k2": (d**2 / 2).sum() / tokens,
        "kl/k3": ((-d).exp() - 1 + d).sum() / tokens,
        "kl/sequence": d.sum(1).mean(),
        "score": scores.mean(),
        "shaped_reward": (scores - 1.0 * ~ends.any(1) - 0.3 * d.sum(1)).mean(),
        "completions/mean_length": lens.mean(),
        "completions/eos_share": ends.any(1).double().mean(),
        "explained_variance": 1 - residuals.var() / batch["returns"][mask.bool()].var(),
        "kl_coef": 0.3,
    }
    for name, value in expected.items():
        assert log[name] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
    assert "kl" not in log and "frac_reward_zero_std" not in log


def test_entropy_and_losses_are_token_means(model, tmp_path):
    """Over both micro-batches together, which hold different numbers of tokens."""
    trainer = build(model, config(tmp_path, max_steps=1, learning_rate=0.0))
    trainer.train()
    log, batch = trainer.recorder.logs[0], rollout(trainer)
    assert len({int(part["loss_mask"].sum()) for part in trainer._buffered_inputs}) == 2
    length, mask = batch["completion_ids"].size(1), batch["loss_mask"]
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        logp = trainer.model(input_ids=ids, attention_mask=attention_mask).logits[:, -length - 1 : -1].log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    assert log["entropy"] == pytest.approx(float((entropy * mask).sum() / mask.sum()), rel=1e-4)
    # on a fresh rollout: ratio 1, value as in the rollout
    policy_loss = -(batch["token_advantages"] * mask).sum() / mask.sum()
    value_loss = 0.5 * ((batch["values"] - batch["returns"]) ** 2 * mask).sum() / mask.sum()
    assert log["policy_loss"] == pytest.approx(float(policy_loss), abs=1e-6)
    assert log["value_loss"] == pytest.approx(float(value_loss), rel=1e-4)
    assert log["loss"] == pytest.approx(float(policy_loss + 0.1 * value_loss), abs=1e-4)
    assert log["clip_fraction/policy"] == log["clip_fraction/value"] == 0


def test_evaluation_scores_without_training(model, tmp_path):
    trainer = build(model, config(tmp_path, per_device_eval_batch_size=8))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    metrics = trainer.evaluate(trainer.train_dataset)
    assert {
        "eval_score",
        "eval_kl/sequence",
        "eval_entropy",
        "eval_loss",
        "eval_completions/eos_share",
    } <= metrics.keys()
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    assert trainer.kl_controller.value == trainer.args.kl_coef


def test_what_trl_says_of_its_own_rewards_is_left_out(model, tmp_path):
    """RLOO's reward is less a KL, so that it would call no prompt's completions alike."""
    trainer = trained(
        model,
        tmp_path,
        num_generations=2,
        trainer_options={"reward_funcs": lambda completions, **_: [1.0] * len(completions)},
    )
    log = trainer.recorder.logs[0]
    assert "frac_reward_zero_std" not in log and log["score/std"] == 0


def test_the_deviation_of_scores_is_that_of_what_is_learned_from(model, tmp_path):
    """Penalties of a missing end among it, completions without a score not."""

    def half(completions, **kwargs):
        return [None if i % 2 else value for i, value in enumerate(count_the(completions))]

    trainer = trained(model, tmp_path, missing_eos_penalty=2.0, trainer_options={"reward_funcs": half})
    scores = torch.tensor(list(trainer._logs["rewards"]["half"]), dtype=torch.float64)
    texts = list(trainer._logs["completion"])
    assert torch.allclose(scores[::2], torch.tensor(count_the(texts)[::2], dtype=torch.float64))
    batch = rollout(trainer)
    ends = torch.isin(batch["completion_ids"], torch.tensor([3, *range(60, 99)])) & batch["completion_mask"].bool()
    rows = batch["loss_mask"].any(1)
    decode = trainer.processing_class.decode
    learned = [
        count_the([decode(ids[mask.bool()], skip_special_tokens=True)])[0] - 2.0 * (not ended)
        for ids, mask, ended in zip(
            batch["completion_ids"][rows], batch["completion_mask"][rows], ends.any(1)[rows], strict=True
        )
    ]
    assert trainer.recorder.logs[0]["score/std"] == pytest.approx(torch.tensor(learned).std().item(), rel=1e-5)
