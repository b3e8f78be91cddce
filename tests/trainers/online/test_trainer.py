"""Losses, pairs and metrics of the online trainer, against the trainer of given pairs, TRL's RLOO and by hand."""

import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl import RLOOConfig, RLOOTrainer

from tests.trainers.helpers import arguments, nf4, relative_difference
from tests.trainers.helpers import build as build_paired
from tests.trainers.online.helpers import build, config, few_levels, pairs, plain_logps, trained
from tests.trainers.ppo import helpers
from tests.trainers.ppo.helpers import count_the
from trl_ext import OnlinePreferenceConfig, PairedPreferenceConfig, PairedPreferenceTrainer, losses
from trl_ext.trainers.common.step_zero import WrongInitialLossError

TIES = {"options": {"reward_funcs": few_levels}}
LOSSES = [
    ("dpo", {"beta": 0.5}),
    ("ipo", {"beta": 0.3}),
    ("simpo", {}),
    ("orpo", {}),
    ({"dpo": 1.0, "sft": 0.2}, {}),
]


@pytest.mark.parametrize(("loss", "kwargs"), LOSSES, ids=str)
def test_a_step_is_that_of_the_trainer_of_given_pairs(model, tmp_path, loss, kwargs):
    """On the very pairs that were sampled, those without a preference left out."""
    trainer = trained(model, tmp_path, loss=loss, loss_kwargs=kwargs, learning_rate=0.0, **TIES)
    examples = pairs(trainer)
    assert 2 <= len(examples) < 8
    assert len({len(example["chosen_ids"]) for example in examples}) > 1

    given = PairedPreferenceConfig(**arguments(tmp_path, max_length=None, loss=loss, loss_kwargs=kwargs))
    expected = build_paired(PairedPreferenceTrainer, given, model)
    sums = expected.step.run(examples)
    gradients = {name: p.grad for name, p in expected.model.named_parameters() if p.grad is not None}
    assert relative_difference(trainer.recorder.gradients[0], gradients) < 1e-5
    log, means = trainer.recorder.logs[0], sums.means()
    # float32 resolves 2e-7 of a value, and IPO's square triples what its margin is off: an absolute bound alone would
    # depend on the kind of CPU where losses are above 1.
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(means["loss"], abs=1e-6, rel=1e-6)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"):
        assert log[name] == pytest.approx(means[name], abs=1e-6), name


def test_a_step_by_hand(model, tmp_path):
    """In the second epoch over a rollout, when the policy is no longer the one that sampled."""
    trainer = trained(model, tmp_path, max_steps=2, num_iterations=2, beta=0.5, learning_rate=0.0, **TIES)
    network, examples = trainer.model, pairs(trainer)

    def logps(side: str) -> torch.Tensor:
        return torch.stack([plain_logps(network, example["prompt_ids"], example[side]) for example in examples])

    policy = {f"{side}_logps": logps(f"{side}_ids") for side in ("chosen", "rejected")}
    with torch.no_grad(), network.disable_adapter():
        reference = {f"ref_{side}_logps": logps(f"{side}_ids") for side in ("chosen", "rejected")}
    lens = {f"{side}_lens": torch.tensor([len(e[f"{side}_ids"]) for e in examples]) for side in ("chosen", "rejected")}
    loss = losses.get("dpo", beta=0.5)
    tensors = policy | reference | lens
    value = loss(**{name: tensors[name] for name in loss.inputs}).losses.mean()
    names, parameters = zip(*[(n, p) for n, p in network.named_parameters() if ".default." in n], strict=True)
    gradients = dict(zip(names, torch.autograd.grad(value, parameters), strict=True))
    assert relative_difference(trainer.recorder.gradients[1], gradients) < 1e-5
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(value.item(), abs=1e-6)


def test_the_rollout_is_that_of_trl(model, tmp_path):
    ours = trained(model, tmp_path)
    kept = ("output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "max_completion_length")
    kept += ("max_steps", "optim", "report_to", "use_cpu", "bf16", "seed", "save_strategy", "disable_tqdm")
    kept += ("gradient_checkpointing", "dataloader_pin_memory", "logging_steps")
    args = RLOOConfig(beta=0.1, **{name: getattr(ours.args, name) for name in kept})
    theirs = helpers.build(model, args, cls=RLOOTrainer)
    theirs.train()
    assert list(ours._logs["completion"]) == list(theirs._logs["completion"])
    for name in ("reward", "completions/mean_length"):
        assert ours.recorder.logs[0][name] == theirs.recorder.logs[0][name]
    assert ours.recorder.logs[0]["kl/k1"] == pytest.approx(theirs.recorder.logs[0]["kl"], rel=1e-5)


@pytest.mark.parametrize("generations", [2, 4])
def test_the_best_and_the_worst_of_a_prompt_are_its_pair(model, tmp_path, generations):
    trainer = trained(model, tmp_path, num_generations=generations)
    texts, prompts = list(trainer._logs["completion"]), list(trainer._logs["prompt"])
    expected = set()
    for start in range(0, 16, generations):
        group = texts[start : start + generations]
        best, worst = (choose(group, key=lambda text: count_the([text])[0]) for choose in (max, min))
        assert len(set(prompts[start : start + generations])) == 1
        if count_the([best]) != count_the([worst]):
            expected.add((prompts[start], best, worst))
    decode = trainer.processing_class.decode
    keys = ("prompt_ids", "chosen_ids", "rejected_ids")
    sampled = [tuple(decode(pair[key], skip_special_tokens=True) for key in keys) for pair in pairs(trainer)]
    assert len(sampled) == len(expected) and set(sampled) == expected
    # In the table of completions: 1 for what was chosen, −1 for what was rejected.
    verdicts = torch.tensor(list(trainer._logs["advantages"])).view(-1, generations)
    assert (verdicts.sum(1) == 0).all() and verdicts.abs().sum() == 2 * len(expected)


def test_gradients_do_not_depend_on_how_a_step_is_cut(model, tmp_path):
    gradients = []
    for size, accumulation in ((16, 1), (8, 2), (4, 4), (2, 8)):
        cut = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        trainer = trained(model, tmp_path, **cut, **TIES)
        weights = torch.cat([batch["weight"] for batch in trainer._buffered_inputs])
        assert (weights == 0).any() and weights.mean().item() == pytest.approx(1)
        gradients.append(trainer.recorder.gradients[0])
    for other in gradients[1:]:
        assert relative_difference(other, gradients[0]) < 1e-5


def test_equal_scores_teach_nothing(model, tmp_path):
    equal = {"reward_funcs": lambda completions, **_: [0.3] * len(completions)}
    trainer = trained(model, tmp_path, equal, loss="orpo")
    log = trainer.recorder.logs[0]
    assert log["pairs/ties"] == 1 and log["loss"] == 0 and log["score"] == pytest.approx(0.3)
    assert not {"rewards/margins", "score/margin"} & log.keys() and math.isfinite(log["entropy"])
    assert all(not gradient.any() for gradient in trainer.recorder.gradients[0].values())


def test_a_completion_that_does_not_end_pays(model, tmp_path):
    """With no other reward, an ended completion is preferred to one that ran out of tokens, and that is all."""
    equal = {"reward_funcs": lambda completions, **_: [1.0] * len(completions)}
    trainer = trained(model, tmp_path, equal, missing_eos_penalty=2.5, max_completion_length=4)
    log, ends = trainer.recorder.logs[0], {3, *range(60, 99)}
    examples = pairs(trainer)
    assert examples and all(pair["chosen_ids"][-1] in ends for pair in examples)
    assert all(pair["rejected_ids"][-1] not in ends for pair in examples)
    assert log["pairs/ties"] == 1 - len(examples) / 8
    assert log["score"] == 1 and log["score/margin"] == 2.5


def test_metrics_are_means_over_what_they_say(model, tmp_path):
    trainer = trained(model, tmp_path, learning_rate=0.0, **TIES)
    log, texts = trainer.recorder.logs[0], list(trainer._logs["completion"])
    scores = torch.tensor(few_levels(texts)).view(-1, 2)
    assert log["score"] == pytest.approx(scores.mean().item())
    assert log["pairs/ties"] == pytest.approx((scores[:, 0] == scores[:, 1]).double().mean().item())
    assert log["score/margin"] == 1
    assert 0 < log["completions/eos_share"] < 1 and log["completions/mean_length"] > 1
    with torch.no_grad():
        network, rewards = trainer.model, {"chosen": [], "rejected": []}
        for pair in pairs(trainer):
            for side, values in rewards.items():
                sequence = pair["prompt_ids"], pair[f"{side}_ids"]
                policy = plain_logps(network, *sequence)
                with network.disable_adapter():
                    values.append(0.1 * (policy - plain_logps(network, *sequence)))
    chosen, rejected = (torch.stack(values) for values in rewards.values())
    assert log["rewards/chosen"] == pytest.approx(chosen.mean().item(), abs=1e-5)
    assert log["rewards/margins"] == pytest.approx((chosen - rejected).mean().item(), abs=1e-5)
    assert log["rewards/accuracies"] == pytest.approx((chosen > rejected).double().mean().item())
    assert "kl" not in log and "frac_reward_zero_std" not in log


def test_several_epochs_reuse_one_rollout(model, tmp_path):
    trainer = build(model, config(tmp_path, max_steps=4, num_iterations=2, learning_rate=0.3))
    sampled = []
    generate = trainer._generate
    trainer._generate = lambda prompts: sampled.append(len(prompts)) or generate(prompts)
    trainer.train()
    assert sampled == [16, 16]
    fresh, stale = trainer.recorder.logs[0], trainer.recorder.logs[1]
    assert "kl/sequence" in fresh and "kl/sequence" not in stale and "rewards/margins" in stale


def test_a_loss_without_a_reference_runs_no_reference_pass(model, tmp_path):
    for loss, passes in (("simpo", {False}), ("dpo", {False, True})):
        trainer, seen = build(model, config(tmp_path, loss=loss)), set()
        layer = trainer.model.get_base_model().model.layers[0].mlp.gate_proj
        layer.register_forward_hook(lambda module, inputs, output, seen=seen: seen.add(module.disable_adapters))
        trainer.train()
        assert seen == passes
        assert ("kl/sequence" in trainer.recorder.logs[0]) == (loss == "dpo")


def test_completions_no_source_can_score_are_in_no_pair(model, tmp_path):
    def some(completions, **kwargs):
        return [None if i in (0, 2, 3) else value for i, value in enumerate(count_the(completions))]

    trainer = trained(model, tmp_path, {"reward_funcs": some})
    assert list(trainer._logs["advantages"])[:4] == [0.0] * 4 and trainer.recorder.logs[0]["pairs/ties"] >= 2 / 8
    assert math.isfinite(trainer.recorder.logs[0]["loss"])


def test_truncated_completions_are_left_out_when_asked(model, tmp_path):
    trainer = trained(model, tmp_path, num_generations=4, mask_truncated_completions=True, max_completion_length=4)
    ends = {3, *range(60, 99)}
    assert all(pair[side][-1] in ends for pair in pairs(trainer) for side in ("chosen_ids", "rejected_ids"))
    assert pairs(trainer) and math.isfinite(trainer.recorder.logs[0]["loss"])


def test_evaluation_scores_without_training(model, tmp_path):
    trainer = build(model, config(tmp_path, num_generations_eval=4))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    metrics = trainer.evaluate(trainer.train_dataset)
    expected = {"eval_score", "eval_kl/sequence", "eval_rewards/margins", "eval_loss", "eval_pairs/ties"}
    assert expected <= metrics.keys()
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_the_4_bit_base_stays_bit_identical_and_exists_once(model, tmp_path):
    args = config(tmp_path, max_steps=3, num_iterations=2, gradient_checkpointing=True)
    trainer = build(model, args, quantization_config=nf4())
    base = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if ".default." not in name}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[name], parameter) for name, parameter in base.items())
    assert all(p.requires_grad == (name not in base) for name, p in after.items())
    assert {p.dtype for name, p in after.items() if name not in base} == {torch.float32}

    def stored(parameters) -> int:
        return sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in parameters}.values())

    alone = AutoModelForCausalLM.from_pretrained(model, quantization_config=nf4())
    adapter = stored(p for name, p in after.items() if name not in base)
    assert stored(after.values()) == stored(alone.parameters()) + adapter and trainer.ref_model is None


def test_an_adapter_that_is_continued_is_its_own_reference(model, tmp_path):
    trained(model, tmp_path / "first", learning_rate=0.5).save_model(str(tmp_path / "adapter"))
    base = AutoModelForCausalLM.from_pretrained(model)
    continued = PeftModel.from_pretrained(base, str(tmp_path / "adapter"), is_trainable=True)
    args = config(tmp_path, max_steps=2, learning_rate=0.5)
    trainer = build(continued, args, path=model, peft_config=None, randomise=False)
    trainer.train()
    first, second = trainer.recorder.logs
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4) and first["rewards/margins"] == 0
    assert second["kl/k2"] > 0
    trainer.save_model(str(tmp_path / "saved"))
    assert not [path for path in (tmp_path / "saved").iterdir() if path.is_dir()]
    card = (tmp_path / "README.md").read_text() if trainer.create_model_card() is None else ""
    assert "a frozen copy of the adapter" in card and "best and worst of 2" in card and "`count_the`" in card


def test_a_reference_that_is_not_the_policy_at_the_start_stops_the_run(model, tmp_path):
    trainer = build(model, config(tmp_path), randomise=False)
    layer = trainer.model.get_base_model().model.layers[0].mlp.gate_proj
    layer.register_forward_hook(lambda module, inputs, output: output * (1.5 if module.disable_adapters else 1.0))
    with pytest.raises(WrongInitialLossError, match="Policy and reference have the same weights"):
        trainer.train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations": 1}, "`num_generations` is 1: a pair needs at least 2"),
        ({"num_generations_eval": 1}, "`num_generations_eval` is 1: a pair needs at least 2"),
        ({"per_device_train_batch_size": 6, "num_generations": 4}, "is 6: give a multiple of 4"),
        ({"eval_strategy": "steps", "per_device_eval_batch_size": 6, "num_generations_eval": 4}, "eval"),
        ({"loss": "kto"}, "the loss kto reads single completions"),
        ({"loss": "aot"}, "aot compares the pairs of a whole optimizer step"),
        ({"loss": "simpo", "loss_kwargs": {"beta": -1}}, "beta"),
        ({"epsilon": 0.3}, "`epsilon` is 0.3. It shapes a policy gradient, and no loss on pairs reads it"),
        ({"sync_ref_model": True}, "`trainer: online` keeps its reference fixed"),
        ({"missing_eos_penalty": -1.0}, "`missing_eos_penalty` is -1.0"),
        (
            {"missing_eos_penalty": 1.0, "mask_truncated_completions": True},
            "which applies only to them, has no effect",
        ),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as raised:
        config(tmp_path, **settings)
    assert "\n" not in str(raised.value)


def test_defaults(tmp_path):
    args = OnlinePreferenceConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    assert (args.loss, args.beta, args.num_generations, args.num_iterations) == ("dpo", 0.1, 2, 1)
    assert args.loss_kwargs == losses.describe("dpo").fill({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward_funcs": None}, "no source of reward"),
        ({"peft_config": None}, "Give `peft_config`"),
        ({"peft_config": helpers.lora(init_lora_weights="olora")}, "moves part of the weights of the base"),
        ({"peft_config": helpers.lora(bias="all")}, "trains biases"),
    ],
)
def test_what_the_trainer_cannot_do_is_said_before_anything_is_loaded(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build("/nowhere/to/be/found", config(tmp_path), path=model, **options)
    with pytest.raises(TypeError, match="takes an OnlinePreferenceConfig, not a PPOConfig"):
        build("/nowhere/to/be/found", helpers.config(tmp_path), path=model)
