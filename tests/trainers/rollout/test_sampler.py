"""Which weights completions are sampled from, and what happens if memory does not allow them."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from tests.trainers.helpers import COMMON, lora, nf4, randomise_lora_b
from tests.trainers.ppo import resuming
from tests.trainers.ppo.helpers import build, config, rollout, trained
from trl_ext import OnlinePreferenceConfig, OnlinePreferenceTrainer
from trl_ext.support.errors import UserError
from trl_ext.trainers.common import activation_memory
from trl_ext.trainers.rollout.merged_copy import MergedCopy

MERGED = {"sampling_weights": "merged"}


def out_of_memory(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory (injected)")


def completions(trainer):
    return sorted(map(tuple, rollout(trainer)["completion_ids"].tolist()))


def with_free(monkeypatch, count):
    monkeypatch.setattr(activation_memory, "free", lambda device: count)


@pytest.mark.parametrize(("free", "choice"), [(2**34, "merged"), (2**20, "adapter")])
def test_auto_goes_by_the_free_memory_and_says_so_once(model, tmp_path, monkeypatch, capsys, free, choice):
    with_free(monkeypatch, free)
    trainer = trained(model, tmp_path, steps=2)
    printed = " ".join(capsys.readouterr().out.split())
    assert trainer.sampler.choice == choice and printed.count("sampling_weights:") == 1
    bits = "32 bits takes" if choice == "adapter" else "32 bits. The copy takes"
    assert f"sampling_weights: {choice}. Completions are sampled from" in printed and bits in printed
    assert ("sampling/logp_difference/mean" in trainer.recorder.logs[0]) == (choice == "merged")
    assert trainer.sampler.copy is None, "it is freed after training"


def test_the_smallest_memory_that_is_enough_is_copy_and_run(model, tmp_path, monkeypatch, capsys):
    """Whatever the sentence says is needed is what decides."""
    trainer = build(model, config(tmp_path, gradient_checkpointing="auto"), quantization_config=nf4())
    from trl_ext.trainers.rollout import sampling_memory

    asked = {"completions": 8, "prompt_length": 5}
    need = sampling_memory.need(trainer.model, trainer.args, torch.float32, **asked)
    for extra, fits in ((1.01, True), (0.99, False)):
        with_free(monkeypatch, extra * (need.copy + need.run) / activation_memory.USABLE)
        assert sampling_memory.need(trainer.model, trainer.args, torch.float32, **asked).fits == fits
    plain = MergedCopy(trainer.model, torch.float32).model
    linear = sum(m.weight.numel() for m in plain.modules() if isinstance(m, torch.nn.Linear))  # the head, too
    assert need.copy == 4 * linear and not plain.config.tie_word_embeddings


def test_merged_weights_and_adapter_train_alike(model, tmp_path):
    """A float32 copy differs by rounding, so the same tokens are sampled, and weights of the loss are 1."""
    merged = trained(model, tmp_path, steps=2, **MERGED)
    adapter = trained(model, tmp_path, steps=2, sampling_weights="adapter")
    assert completions(merged) == completions(adapter)
    for found, expected in zip(merged.recorder.logs, adapter.recorder.logs, strict=True):
        assert found.pop("sampling/logp_difference/max") < 1e-5 and found.pop("sampling/logp_difference/mean") < 1e-6
        assert found.pop("sampling/weight/mean") == pytest.approx(1, abs=1e-5)
        assert found.pop("sampling/weight/bounded") == 0
        assert found.keys() == expected.keys()
        assert found["policy_loss"] == pytest.approx(expected["policy_loss"], abs=1e-5)


def test_the_copy_is_nowhere_but_in_the_sampler(model, tmp_path):
    trainer = trained(model, tmp_path, save_strategy="steps", save_steps=1, **MERGED)
    plain = trained(model, tmp_path / "adapter", save_strategy="steps", save_steps=1, sampling_weights="adapter")
    assert [name for name, _ in trainer.model.named_parameters()] == [n for n, _ in plain.model.named_parameters()]
    files = [{p.relative_to(f).as_posix(): p.stat().st_size for p in f.rglob("*.safetensors")} for f in (tmp_path / "checkpoint-1", tmp_path / "adapter/checkpoint-1")]  # fmt: skip
    assert files[0] == files[1]
    trainer.sampler._prepared([[5]], False)
    held = {id(p) for p in trainer.sampler.copy.parameters()}
    assert not held & {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in trainer.model.parameters()}


def test_a_run_resumed_in_the_middle_samples_what_the_uninterrupted_run_samples(model, tmp_path):
    settings = resuming.SETTINGS | MERGED | {"max_steps": 9}

    def run(folder, checkpoint=None):
        trainer = build(model, config(folder, **settings), quantization_config=nf4())
        return resuming.trained(trainer, checkpoint)

    whole = run(tmp_path / "whole")
    assert all("sampling/logp_difference/mean" in log for log in whole.recorder.logs[::4])
    for step in (2, 4):  # inside a rollout, and before one
        resumed = run(tmp_path / f"from-{step}", str(tmp_path / "whole" / f"checkpoint-{step}"))
        resuming.check_same(resumed, resuming.weights(whole), whole.recorder.logs)
        assert torch.equal(rollout(resumed)["completion_ids"], rollout(whole)["completion_ids"])


def test_auto_keeps_the_choice_of_the_run_it_resumes(model, tmp_path, monkeypatch):
    settings = resuming.SETTINGS | {"max_steps": 5}
    with_free(monkeypatch, 0)
    resuming.trained(build(model, config(tmp_path, **settings)))
    with_free(monkeypatch, 2**40)
    resumed = build(model, config(tmp_path / "resumed", **settings))
    resuming.trained(resumed, str(tmp_path / "checkpoint-4"))
    assert resumed.sampler.choice == "adapter"


@pytest.mark.parametrize(
    ("owner", "when"), [("made", 1), ("refreshed", 2)]
)  # the first rollout makes the copy, the second refreshes it
def test_memory_that_runs_out_under_auto_ends_in_the_adapter(model, tmp_path, monkeypatch, capsys, owner, when):
    name = {"made": "__init__", "refreshed": "refresh"}[owner]
    monkeypatch.setattr(MergedCopy, name, out_of_memory)
    trainer = trained(model, tmp_path, steps=3)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"out of memory while the merged weights were {owner}: they are freed" in printed
    assert printed.count("out of memory") == 1
    assert ["sampling/logp_difference/mean" in log for log in trainer.recorder.logs] == [when == 2, False, False]
    assert trainer.sampler.choice == "adapter" and trainer.sampler.copy is None


@pytest.mark.parametrize("name", ["__init__", "refresh"])
def test_memory_that_runs_out_under_merged_is_one_sentence(model, tmp_path, monkeypatch, name):
    monkeypatch.setattr(MergedCopy, name, out_of_memory)
    with pytest.raises(UserError) as raised:
        trained(model, tmp_path, steps=3, **MERGED)
    sentence = str(raised.value)
    assert "Out of memory while the merged weights were" in sentence and "\n" not in sentence
    assert "`sampling_weights: merged` keeps a copy of the base in memory. Remove it" in sentence


def test_memory_that_runs_out_while_the_copy_samples(model, tmp_path, monkeypatch, capsys):
    init = MergedCopy.__init__

    def without_memory(self, *args):
        init(self, *args)
        self.model.generate = out_of_memory

    monkeypatch.setattr(MergedCopy, "__init__", without_memory)
    trainer = trained(model, tmp_path, steps=2)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("out of memory while completions were sampled from the merged weights") == 1
    assert len(trainer.recorder.logs) == 2 and trainer.sampler.choice == "adapter"
    with pytest.raises(UserError, match=r"^Out of memory while completions were sampled: lower"):
        trained(model, tmp_path, **MERGED)


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["embed_tokens"]}])  # fmt: skip
def test_other_adapters_are_sampled_from_as_they_are_with_the_reason(model, tmp_path, capsys, changes):
    trainer = trained(model, tmp_path, trainer_options={"peft_config": lora(**changes)})
    printed = " ".join(capsys.readouterr().out.split())
    assert trainer.sampler.choice == "adapter" and "because the adapter" in printed
    with pytest.raises((UserError, ValueError), match="`sampling_weights` is merged, but the adapter"):
        trained(model, tmp_path, trainer_options={"peft_config": lora(**changes)}, **MERGED)


def test_a_refresh_that_is_skipped_is_noticed(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(MergedCopy, "refresh", lambda self: None)
    trainer = trained(model, tmp_path, steps=3, learning_rate=1.0, **MERGED)
    logs = trainer.recorder.logs
    assert logs[0]["sampling/logp_difference/mean"] < 1e-6 and logs[1]["sampling/logp_difference/mean"] > 0.01
    assert abs(logs[2]["sampling/weight/mean"] - 1) > 1e-3
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("The weights that completions are sampled from differ from the policy by") == 1


@pytest.mark.parametrize("is_continuous", [False, True])
def test_recorded_log_probabilities_are_those_of_the_copy(model, tmp_path, is_continuous):
    """Against the training path: a forward pass of PEFT's model over prompts and completions, at the temperature."""
    continuous = {
        "use_transformers_continuous_batching": True,
        "transformers_continuous_batching_config": {"num_blocks": 64, "max_batch_tokens": 64},
    }
    settings = MERGED | {"temperature": 0.7} | (continuous if is_continuous else {})
    trainer = build(model, config(tmp_path, **settings))
    seen = {}
    plain = trainer.update.targets

    def targets(batch, sampled, mode):
        seen.update(batch=batch, sampled=sampled)
        return plain(batch, sampled, mode)

    trainer.update.targets = targets
    trainer.train()
    batch, sampled = seen["batch"], seen["sampled"]
    mask = batch["completion_mask"].bool()
    assert not sampled.sampling_logps[mask].isnan().any() and not mask.all(), "some completions end early"
    torch.testing.assert_close(sampled.sampling_logps[mask], sampled.logps[mask], rtol=1e-4, atol=1e-5)


def test_an_adapter_that_is_continued_with_its_reference_and_all_other_roles(model, tmp_path):
    """Merged weights are those of the policy alone, and with gradient checkpointing nothing else changes."""

    def run(weights, checkpointing):
        torch.manual_seed(4)
        start = get_peft_model(AutoModelForCausalLM.from_pretrained(model, quantization_config=nf4()), lora())
        randomise_lora_b(start)
        settings = {"sampling_weights": weights, "gradient_checkpointing": checkpointing, "kl_coef": 0.5}
        trainer = build(start, config(tmp_path, max_steps=2, **settings), path=model, peft_config=None)
        trainer.train()
        return trainer

    merged, adapter = run("merged", True), run("adapter", False)
    assert set(merged.model.peft_config) == {"default", "ref", "critic"}
    assert completions(merged) == completions(adapter)
    expected = resuming.weights(adapter)
    for name, weight in resuming.weights(merged).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5)
    assert merged.recorder.logs[1]["sampling/logp_difference/max"] < 1e-4


def test_pairs_are_sampled_from_merged_weights_too_and_nothing_is_weighted(model, tmp_path):
    online = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 6, "max_steps": 2}

    def run(weights):
        args = OnlinePreferenceConfig(**COMMON | online, output_dir=str(tmp_path), sampling_weights=weights)
        trainer = build(model, args, cls=OnlinePreferenceTrainer)
        trainer.train()
        return trainer

    merged, adapter = run("merged"), run("adapter")
    assert torch.equal(rollout(merged)["completion_ids"], rollout(adapter)["completion_ids"])
    log = merged.recorder.logs[1]
    assert log["sampling/logp_difference/mean"] < 1e-5 and "sampling/weight/mean" not in log
    assert log["loss"] == pytest.approx(adapter.recorder.logs[1]["loss"], rel=1e-4)
