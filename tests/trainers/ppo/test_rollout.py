"""What PPO learns from a rollout: against TRL's RLOO, by hand, and however a step is cut."""

import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl import RLOOConfig, RLOOTrainer

from tests.trainers.helpers import relative_difference
from tests.trainers.ppo.helpers import build, config, count_the, rollout, trained
from trl_ext.trainers.common.step_zero import WrongInitialLossError

TOKENS = ("completion_ids", "completion_mask", "prompt_ids", "prompt_mask")


def test_the_rollout_is_that_of_trl(model, tmp_path):
    """Same seed, same completions, same log-probs and rewards as `trl.RLOOTrainer`."""
    ours = build(model, config(tmp_path, num_generations=2, max_steps=1))
    values = {name: getattr(ours.args, name) for name in RLOOConfig.__dataclass_fields__ if name != "beta"}
    keep = ("num_generations", "per_device_train_batch_size", "gradient_accumulation_steps", "max_completion_length")
    keep += (
        "output_dir",
        "max_steps",
        "learning_rate",
        "optim",
        "report_to",
        "use_cpu",
        "bf16",
        "seed",
        "logging_steps",
    )
    keep += ("save_strategy", "gradient_checkpointing", "disable_tqdm", "dataloader_pin_memory", "lr_scheduler_type")
    ours.train()
    theirs = build(model, RLOOConfig(beta=0.1, **{name: values[name] for name in keep}), cls=RLOOTrainer)
    theirs.train()
    for name in TOKENS:
        torch.testing.assert_close(rollout(ours)[name], rollout(theirs)[name])
    ours_summed = (rollout(ours)["old_per_token_logps"] * rollout(ours)["completion_mask"]).sum(1)
    torch.testing.assert_close(ours_summed, rollout(theirs)["old_logps"])
    for name in ("reward", "completions/mean_length", "rewards/count_the/mean"):
        assert ours.recorder.logs[0][name] == theirs.recorder.logs[0][name]
    # TRL's `kl` is the token mean of the k1 estimator. The log-probs, of about 5 nats, are rounded otherwise in packed rows.
    assert ours.recorder.logs[0]["kl/k1"] == pytest.approx(theirs.recorder.logs[0]["kl"], rel=1e-5, abs=1e-6)


def test_temperature_divides_the_logits_of_policy_and_reference(model, tmp_path):
    trainer = build(model, config(tmp_path, max_steps=1, temperature=0.7, learning_rate=0.0))
    trainer.train()
    batch = rollout(trainer)
    length = batch["completion_ids"].size(1)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)

    def logps() -> torch.Tensor:
        logits = trainer.model(input_ids=ids, attention_mask=attention_mask).logits[:, -length - 1 : -1] / 0.7
        return logits.log_softmax(-1).gather(2, batch["completion_ids"].unsqueeze(2)).squeeze(2)

    mask = batch["loss_mask"]
    with torch.no_grad(), trainer.model.disable_adapter():
        torch.testing.assert_close(batch["ref_per_token_logps"] * mask, logps() * mask, rtol=0, atol=2e-5)
    with torch.no_grad():
        torch.testing.assert_close(batch["old_per_token_logps"] * mask, logps() * mask, rtol=0, atol=2e-5)


def test_the_score_lies_on_the_last_valid_token(model, tmp_path):
    """λ = γ = 1, no KL, no value: the return of every token is the score of its completion."""
    trainer = trained(
        model, tmp_path, trainer_options={"randomise": False}, lam=1.0, kl_coef=0.0, normalize_advantages=False
    )
    batch = rollout(trainer)
    texts = trainer.processing_class.batch_decode(
        [ids[mask.bool()] for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)],
        skip_special_tokens=True,
    )
    scores = torch.tensor(count_the(texts)).unsqueeze(1)
    assert len(set(batch["completion_mask"].sum(1).tolist())) > 1
    torch.testing.assert_close(batch["returns"], scores * batch["completion_mask"])
    torch.testing.assert_close(batch["token_advantages"], batch["returns"])


def test_a_completion_that_does_not_end_pays(model, tmp_path):
    settings = {"lam": 1.0, "kl_coef": 0.0, "normalize_advantages": False}
    plain, penalised = (
        rollout(
            trained(model, tmp_path, trainer_options={"randomise": False}, missing_eos_penalty=penalty, **settings)
        )
        for penalty in (None, 2.5)
    )
    ends = torch.isin(plain["completion_ids"], torch.tensor([3, *range(60, 99)])) & plain["completion_mask"].bool()
    is_ended = ends.any(1, keepdim=True)
    assert 0 < is_ended.sum() < len(is_ended)
    difference = (plain["returns"] - penalised["returns"]) / plain["completion_mask"].clamp(min=1)
    torch.testing.assert_close(difference, 2.5 * (~is_ended) * plain["completion_mask"], rtol=0, atol=1e-6)


def test_completions_no_source_can_score_teach_nothing(model, tmp_path):
    def half(completions, **kwargs):
        return [None if i % 2 else value for i, value in enumerate(count_the(completions))]

    trainer = build(model, config(tmp_path, max_steps=1), reward_funcs=half)
    trainer.train()
    batch = rollout(trainer)
    is_scored = batch["loss_mask"].any(1)
    assert is_scored.sum() == len(is_scored) // 2
    assert batch["token_advantages"][~is_scored].abs().sum() == 0
    assert math.isfinite(trainer.recorder.logs[0]["loss"])


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_gradients_do_not_depend_on_how_a_step_is_cut(model, tmp_path, placement):
    gradients = []
    for size, accumulation in ((8, 1), (4, 2), (2, 4), (1, 8)):
        trainer = trained(
            model,
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            kl_placement=placement,
            kl_estimator="k1" if placement == "reward" else "k2",
        )
        gradients.append(trainer.recorder.gradients[0])
    for other in gradients[1:]:
        assert relative_difference(other, gradients[0]) < 1e-5


def test_several_epochs_reuse_one_rollout(model, tmp_path):
    trainer = build(model, config(tmp_path, max_steps=4, num_iterations=2, learning_rate=0.3))
    sampled = []
    generate = trainer._generate
    trainer._generate = lambda prompts: sampled.append(len(prompts)) or generate(prompts)
    trainer.train()
    assert sampled == [8, 8]
    fresh, stale = trainer.recorder.logs[0], trainer.recorder.logs[1]
    assert fresh["clip_fraction/policy"] == 0 and stale["clip_fraction/policy"] > 0
    assert "kl/sequence" in fresh and "kl/sequence" not in stale


def test_a_reference_that_is_not_the_policy_at_the_start_stops_the_run(model, tmp_path):
    trainer = build(model, config(tmp_path), randomise=False)
    layer = trainer.model.get_base_model().model.layers[0].mlp.gate_proj
    layer.register_forward_hook(lambda module, inputs, output: output * (1.5 if module.disable_adapters else 1.0))
    with pytest.raises(WrongInitialLossError, match="The KL would be measured against a wrong reference"):
        trainer.train()


def test_an_adapter_that_is_continued_is_its_own_reference(model, tmp_path):
    first = trained(model, tmp_path / "first", steps=2)
    first.save_model(str(tmp_path / "adapter"))
    continued = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model), str(tmp_path / "adapter"), is_trainable=True
    )
    trainer = build(continued, config(tmp_path, max_steps=2), path=model, peft_config=None, randomise=False)
    trainer.train()
    assert trainer.recorder.logs[0]["kl/k2"] == 0
    assert trainer.recorder.logs[1]["kl/k2"] > 0
