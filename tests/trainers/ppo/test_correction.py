"""The correction for the weights that sampled, in the trainer: where it enters the losses, and vLLM's log-probabilities."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration, extract_logprobs
from trl.trainer import rloo_trainer

from tests.trainers.ppo.helpers import build, config
from trl_ext.rl import objectives
from trl_ext.rl.sampling_ratio import sampling_ratio
from trl_ext.trainers.rollout import correction, vllm_logps, vllm_weights
from trl_ext.trainers.rollout.merged_copy import MergedCopy

STALE = {"max_steps": 2, "learning_rate": 1.0, "sampling_weights": "merged", "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "normalize_advantages": False}  # fmt: skip


def stepped(model, tmp_path, monkeypatch, **changes):
    """A trainer whose copy is never refreshed, after its second step, and what it learned from in that step.

    Returns:
        The trainer, the micro-batch, and a plain model with the weights that sampled it.
    """
    monkeypatch.setattr(MergedCopy, "refresh", lambda self: None)
    trainer = build(model, config(tmp_path, **STALE | changes))
    stale, batches = AutoModelForCausalLM.from_pretrained(model).eval(), []
    stale.load_state_dict(
        {name: data.clone() for name, data in vllm_weights.named_weights(trainer.model)}, strict=False
    )
    plain = trainer.update.policy_loss

    def policy_loss(batch, sums):
        batches.append(batch)
        return plain(batch, sums)

    trainer.update.policy_loss = policy_loss
    trainer.train()
    return trainer, batches[-1], stale


def ratios(batch, stale, temperature=1.0):
    """π_train/π_sample per token (B, C), from a forward pass of the stale model."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        logits = stale(ids, attention_mask=mask).logits[:, batch["prompt_ids"].size(1) - 1 : -1] / temperature
    sampled = logits.log_softmax(-1).gather(2, batch["completion_ids"][..., None])[..., 0]
    return (batch["old_per_token_logps"] - sampled).exp()


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_truncate", "token_mask"])
def test_the_policy_loss_is_weighted_by_the_ratio_of_the_weights(model, tmp_path, monkeypatch, mode):
    settings = {"vllm_importance_sampling_mode": mode, "vllm_importance_sampling_clip_max": 1.05}
    trainer, batch, stale = stepped(model, tmp_path, monkeypatch, **settings)
    mask = batch["loss_mask"].bool()
    ratio = torch.where(mask, ratios(batch, stale), 1)
    if mode == "sequence_truncate":
        ratio = ratio.prod(1, keepdim=True).expand_as(ratio)
    bounded = ratio.clamp(max=1.05) if "truncate" in mode else ratio.where(ratio <= 1.05, 0)
    # At the first step on a rollout the policy's ratio is 1, so the loss is −weight·advantage.
    expected = -(bounded * batch["token_advantages"])[mask].mean()
    log = trainer.recorder.logs[1]
    assert log["policy_loss"] == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
    assert log["sampling/weight/mean"] == pytest.approx(bounded[mask].mean().item(), rel=1e-4)
    assert log["sampling/weight/bounded"] == pytest.approx((ratio > 1.05)[mask].float().mean().item(), abs=1e-6)
    difference = ratios(batch, stale).log().abs()[mask]
    assert log["sampling/logp_difference/mean"] == pytest.approx(difference.mean().item(), rel=1e-3)
    assert log["sampling/logp_difference/max"] == pytest.approx(difference.max().item(), rel=1e-3)


def test_without_correction_the_difference_is_logged_and_nothing_weighted(model, tmp_path, monkeypatch):
    trainer, batch, _ = stepped(model, tmp_path, monkeypatch, vllm_importance_sampling_correction=False)
    log, mask = trainer.recorder.logs[1], batch["loss_mask"].bool()
    assert log["sampling/logp_difference/mean"] > 0.01 and "sampling/weight/mean" not in log
    assert correction.POLICY_RATIO not in batch
    assert log["policy_loss"] == pytest.approx(-batch["token_advantages"][mask].mean().item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_a_kl_in_the_loss_is_weighted_at_its_own_level(model, tmp_path, monkeypatch, level):
    kl = {"kl_placement": "loss", "kl_estimator": "k2", "kl_level": level, "vllm_importance_sampling_clip_max": None}
    trainer, batch, stale = stepped(model, tmp_path, monkeypatch, **kl)
    mask = batch["loss_mask"].bool()
    ratio = torch.where(mask, ratios(batch, stale), 1)
    log_ratio = torch.where(mask, batch["old_per_token_logps"] - batch["ref_per_token_logps"], 0)
    if level == "sequence":
        expected = ratio.prod(1) * log_ratio.sum(1).square() / 2
    else:
        expected = (ratio * log_ratio.square() / 2).sum(1)
    assert trainer.recorder.logs[1]["kl_loss"] == pytest.approx(expected.mean().item(), rel=1e-3)


def test_log_probabilities_of_vllm_are_asked_for_and_kept():
    """Where TRL's engine puts them; the engine itself is not run here."""
    rows = [[[-1.0], [None]], [[-0.5]]]
    engine = SimpleNamespace(logprobs=None, generate=lambda **given: ([[1]], [[2, 3], [4]], rows, None))
    vllm_logps.returned_by(engine)
    assert engine.generate(prompts=[[1]])[1] == [[2, 3], [4]] and engine.logprobs == 0
    found = vllm_logps.of(engine)
    assert found[0, 0] == -1 and found[1, 0] == -0.5 and found[:, 1].isnan().all()
    rows = None
    engine.generate()
    assert vllm_logps.of(engine) is None


def test_trls_engine_returns_log_probabilities_third_and_asks_for_them_by_this_name():
    """The engine cannot run here, so its source is read."""
    source = inspect.getsource(VLLMGeneration)
    assert "return prompt_ids, completion_ids, logprobs, logprob_token_ids" in inspect.getsource(
        VLLMGeneration.generate
    )
    assert '"logprobs": self.logprobs' in source and 'logprobs_mode="processed_logprobs"' in source
    output = SimpleNamespace(outputs=[SimpleNamespace(logprobs=[{7: SimpleNamespace(logprob=-0.25, rank=1)}])])
    assert extract_logprobs([output])[0] == [[[-0.25]]]


def test_sleep_between_rollouts_is_passed_to_the_engine(model, tmp_path, monkeypatch):
    given = {}

    class Engine:
        def __init__(self, **arguments):
            given.update(arguments)

        def generate(self, **arguments): ...

    monkeypatch.setattr(rloo_trainer, "VLLMGeneration", Engine)
    settings = {"use_vllm": True, "vllm_enable_sleep_mode": True, "vllm_gpu_memory_utilization": 0.4}
    trainer = build(model, config(tmp_path, **settings))
    assert given["enable_sleep_mode"] is True and given["gpu_memory_utilization"] == 0.4
    assert trainer.vllm_generation.logprobs == 0


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate"])
def test_vespo_weighs_completions_by_the_ratio_as_trl_does(mode):
    generator = torch.Generator().manual_seed(3)
    logps, old, sampled = (-torch.rand(4, 5, generator=generator) for _ in range(3))
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4])[:, None]
    advantages = torch.randn(4, 1, generator=generator)
    ratio = sampling_ratio(old, sampled, mask, mode=mode, clip_max=1.2).weights
    batch = {"old_per_token_logps": old, "loss_mask": mask, "token_advantages": advantages.expand(4, 5) * mask}
    args = SimpleNamespace(policy_objective="vespo", vllm_importance_sampling_mode=mode)
    found = correction.weighted(objectives.vespo, args, logps, batch | {correction.POLICY_RATIO: ratio}).losses
    # TRL's own function; it takes one weight per token, and of a completion's weight we give it one factor.
    theirs = ratio if mode.startswith("token") else torch.where(torch.arange(5) == 0, ratio, 1)
    phi = GRPOTrainer.get_gamma_weights(advantages, logps - old, mask, theirs)
    torch.testing.assert_close(found, torch.where(mask, -phi * advantages * logps, 0))
