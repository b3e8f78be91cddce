"""Rollouts, losses and metrics of the PPO trainer, against TRL's RLOO, by hand and by invariance."""

import itertools
import math
import warnings

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl import RLOOConfig, RLOOTrainer

from tests.ppo import separate
from tests.ppo.helpers import build, config, count_the
from tests.trainers.helpers import lora, relative_difference
from trl_ext import PPOConfig
from trl_ext.rl import truth_table
from trl_ext.trainers.step_zero import WrongInitialLossError

TOKENS = ("completion_ids", "completion_mask", "prompt_ids", "prompt_mask")


def rollout(trainer) -> dict[str, torch.Tensor]:
    """The completions of the last rollout, the micro-batches joined."""
    batches = trainer._buffered_inputs
    return {
        name: torch.cat([batch[name] for batch in batches]) if value.ndim else value
        for name, value in batches[0].items()
    }


def trained(model, tmp_path, steps: int = 1, trainer_options: dict | None = None, **changes):
    trainer = build(model, config(tmp_path, max_steps=steps, **changes), **(trainer_options or {}))
    trainer.train()
    return trainer


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
    # TRL's `kl` is the token mean of the k1 estimator
    assert ours.recorder.logs[0]["kl/k1"] == pytest.approx(theirs.recorder.logs[0]["kl"], rel=1e-5)


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
        assert relative_difference(other, gradients[0]) < 2e-6


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


def test_advantages_are_whitened_unless_the_kl_is_in_the_loss(model, tmp_path):
    in_reward = rollout(trained(model, tmp_path))
    whitened = in_reward["token_advantages"][in_reward["loss_mask"].bool()]
    assert whitened.mean().item() == pytest.approx(0, abs=1e-6) and whitened.std().item() == pytest.approx(1, rel=1e-4)
    assert in_reward["loss_kl_coef"] == 0

    settings = {"kl_placement": "loss", "kl_estimator": "k2", "kl_coef": 0.2}
    in_loss = rollout(trained(model, tmp_path, **settings))
    assert in_loss["loss_kl_coef"].item() == pytest.approx(0.2)
    deviation = in_loss["token_advantages"][in_loss["loss_mask"].bool()].std()
    assert abs(deviation - 1) > 1e-2
    # asked for, the KL coefficient is divided by the same number, so that their proportion stays
    both = rollout(trained(model, tmp_path, normalize_advantages=True, **settings))
    assert both["loss_kl_coef"].item() == pytest.approx(0.2 / deviation.item(), rel=1e-4)


@pytest.mark.parametrize(
    "cell", list(itertools.product(*map(truth_table.__dict__.get, ("ESTIMATOR_NAMES", "PLACEMENTS", "LEVELS"))))
)
def test_every_kl_cell_runs_and_a_biased_one_warns_once(model, tmp_path, cell):
    settings = dict(zip(("kl_estimator", "kl_placement", "kl_level"), cell, strict=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = trained(model, tmp_path, steps=2, num_iterations=2, kl_coef=0.5, **settings)
    said = [str(warning.message) for warning in caught if "KL(π‖ref)" in str(warning.message)]
    expected = truth_table.warning(*cell)
    assert said == ([expected] if expected else [])
    assert all(math.isfinite(log["loss"]) for log in trainer.recorder.logs)
    for name in ("kl_loss", "kl_weight/mean", "kl_weight/max"):
        assert (name in trainer.recorder.logs[0]) == (cell[1] == "loss")


def test_a_discounted_kl_is_said_to_be_none(model, tmp_path):
    with pytest.warns(UserWarning, match=r"with γ = 1 only: with gamma 0\.9"):
        trained(model, tmp_path, steps=1, kl_coef=0.5, gamma=0.9)
    assert truth_table.warning("k2", "loss", gamma=0.9) is None


def test_kl_in_the_loss_pulls_towards_the_reference(model, tmp_path):
    """With no reward but the KL, one step of either exact cell lowers the KL; of k1 in the loss it need not."""
    for estimator, placement in (("k1", "reward"), ("k2", "loss")):
        settings = {"kl_estimator": estimator, "kl_placement": placement, "normalize_advantages": False}
        trainer = trained(
            model,
            tmp_path,
            steps=25,
            kl_coef=1.0,
            learning_rate=0.3,
            critic_learning_rate=0.1,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=1,
            trainer_options={"reward_funcs": lambda completions, **_: [0.0] * len(completions)},
            **settings,
        )
        k2 = [log["kl/k2"] for log in trainer.recorder.logs]
        assert sum(k2[-3:]) < 0.5 * sum(k2[:3]), (estimator, placement)


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_importance_weights_of_a_kl_in_the_loss_are_logged(model, tmp_path, level):
    """Of completions or tokens of the second epoch, those that no source could score left out."""

    def half(completions, **kwargs):
        return [None if i % 2 else value for i, value in enumerate(count_the(completions))]

    kl = {"kl_estimator": "k2", "kl_placement": "loss", "kl_level": level}
    args = config(tmp_path, max_steps=2, num_iterations=2, learning_rate=0.3, **kl)
    trainer = build(model, args, reward_funcs=half)
    before = separate.WeightsBefore()
    trainer.add_callback(before)
    trainer.train()
    fresh, stale = trainer.recorder.logs
    assert fresh["kl_weight/mean"] == pytest.approx(1, abs=1e-5) and fresh["kl_weight/max"] == pytest.approx(
        1, abs=1e-5
    )
    ratios = torch.cat(separate.log_ratios(model, before.steps[1], trainer._buffered_inputs))
    mask = rollout(trainer)["loss_mask"].bool()
    weights = ratios.sum(1)[mask.any(1)].exp() if level == "sequence" else ratios[mask].exp()
    assert len(weights) == (4 if level == "sequence" else mask.sum()) and weights.max() > 1.05
    assert stale["kl_weight/mean"] == pytest.approx(weights.mean().item(), rel=1e-4)
    assert stale["kl_weight/max"] == pytest.approx(weights.max().item(), rel=1e-4)


def test_the_adaptive_controller_follows_its_formula(model, tmp_path):
    trainer = trained(model, tmp_path, steps=3, kl_controller="adaptive", kl_coef=0.15, kl_target=0.05, kl_horizon=100)
    coefficient = 0.15
    for log in trainer.recorder.logs:
        assert log["kl_coef"] == pytest.approx(coefficient)
        coefficient *= 1 + min(max(log["kl/sequence"] / 0.05 - 1, -0.2), 0.2) * 8 / 100
    assert trainer.kl_controller.value == pytest.approx(coefficient)


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


def test_a_reference_that_is_not_the_policy_at_the_start_stops_the_run(model, tmp_path):
    trainer = build(model, config(tmp_path), randomise=False)
    layer = trainer.model.get_base_model().model.layers[0].mlp.gate_proj
    layer.register_forward_hook(lambda module, inputs, output: output * (1.5 if module.disable_adapters else 1.0))
    with pytest.raises(WrongInitialLossError, match="the KL would be measured against something else"):
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_coef": -0.1}, "`kl_coef` is -0.1"),
        ({"beta": 0.1}, "`beta` is 0.1: PPO has one KL coefficient, `kl_coef`"),
        ({"kl_target": 6.0}, "set `kl_controller: adaptive`, or remove `kl_target`"),
        ({"kl_controller": "adaptive"}, "set `kl_target`"),
        ({"kl_controller": "adaptive", "kl_target": 0.0}, "`kl_target` is 0.0"),
        ({"kl_estimator": "k4"}, "choose one of k1, k2, k3"),
        ({"kl_placement": "advantage"}, "choose one of reward, loss"),
        ({"kl_level": "word"}, "choose one of token, sequence"),
        ({"gamma": 1.5}, "`gamma` is 1.5"),
        ({"missing_eos_penalty": -1.0}, "`missing_eos_penalty` is -1.0"),
        ({"sync_ref_model": True}, "PPO's reference stays what it is"),
        ({"missing_eos_penalty": 1.0, "mask_truncated_completions": True}, "which only they would pay, has no effect"),
        ({"neftune_noise_alpha": 5.0}, "adds noise to the embeddings"),
        ({"torch_compile": True}, "`torch_compile` would have no effect"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` would have no effect"),
        ({"reward_clip_range": (1.0, -1.0)}, "`reward_clip_range` is .*: give two numbers, the lower one first"),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as raised:
        config(tmp_path, **settings)
    assert "\n" not in str(raised.value)


def test_an_adapter_that_changes_the_base_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="takes its share out of the base"):
        build(model, config(tmp_path), peft_config=lora(init_lora_weights="olora"))


def test_defaults_are_those_of_the_papers(tmp_path):
    args = PPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    assert (args.gamma, args.lam, args.epsilon, args.cliprange_value, args.vf_coef) == (1.0, 0.95, 0.2, 0.2, 0.1)
    assert (args.kl_estimator, args.kl_placement, args.kl_level) == ("k1", "reward", "token")
    assert args.normalize_advantages and args.num_generations == 1
    in_loss = PPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, kl_placement="loss", kl_estimator="k2")
    assert in_loss.kl_level == "sequence" and not in_loss.normalize_advantages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward_funcs": None}, "no source of reward"),
        ({"peft_config": None}, "give `peft_config`"),
        ({"optimizers": (torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), None)}, "`optimizers` were given"),
    ],
)
def test_what_the_trainer_cannot_do_is_said_before_anything_is_loaded(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build("/nowhere/to/be/found", config(tmp_path), path=model, **options)
