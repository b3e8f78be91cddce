"""`sync_ref_model` with an adapter: TRL's full-model semantics on the shared base, and nothing lost at a resume."""

import bitsandbytes as bnb
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.trainer.callbacks import SyncRefModelCallback

from tests.conftest import pairs
from tests.trainers.helpers import arguments, lora, nf4
from trl_ext.checkpoints import manifest
from trl_ext.cli import main
from trl_ext.methods import METHODS
from trl_ext.support.errors import UserError
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
)

REFRESH = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.6}


def settings(tmp_path, **changes):
    return arguments(tmp_path, **{**REFRESH, "optim": "adamw_torch", "max_steps": 5, **changes})


def paired(tiny_model, tmp_path, *, config=None, **kwargs):
    return PairedPreferenceTrainer(
        model=kwargs.pop("model", tiny_model),
        args=PairedPreferenceConfig(**settings(tmp_path, **(config or {}))),
        train_dataset=Dataset.from_list(pairs(24)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        **{"peft_config": lora(), **kwargs},
    )


def adapter(trainer, name) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if f".{name}." in n}


def merged(trainer, tiny_model, name) -> torch.nn.Module:
    """A model of its own whose weights are the base's plus what an adapter adds."""
    dense = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        for path, module in trainer.model.get_base_model().named_modules():
            if hasattr(module, "lora_A"):
                dense.get_submodule(path).weight += module.get_delta_weight(name)
    return dense


class DenseTwin(TrainerCallback):
    """TRL's own callback on dense models: the merged policy of each step, and a reference that only it touches."""

    def __init__(self, trainer, tiny_model):
        self.trainer, self.tiny_model = trainer, tiny_model
        self.reference = merged(trainer, tiny_model, "default")
        self.trl = SyncRefModelCallback(ref_model=self.reference, accelerator=None)
        self.differences, self.moves = [], []

    def on_step_end(self, args, state, control, **kwargs):
        before = [p.clone() for p in self.reference.parameters()]
        policy = merged(self.trainer, self.tiny_model, "default")
        self.trl.on_step_end(args, state, control, model=policy)
        if any(not torch.equal(a, b) for a, b in zip(before, self.reference.parameters(), strict=True)):
            self.moves.append(state.global_step)
        ours = merged(self.trainer, self.tiny_model, "ref")
        base = AutoModelForCausalLM.from_pretrained(self.tiny_model, dtype=torch.float32)
        sets = zip(ours.parameters(), self.reference.parameters(), base.parameters(), strict=True)
        squares = [((a - b).square().sum(), (b - c).square().sum()) for a, b, c in sets]
        difference, change = (sum(values) for values in zip(*squares, strict=True))
        self.differences.append((difference / change.clamp(min=1e-30)).sqrt().item())


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"r": 2, "alpha_pattern": {"q_proj": 3}}])
def test_the_reference_moves_when_and_as_trls_second_model_does(changes, tiny_model, tmp_path):
    trainer = paired(tiny_model, tmp_path, peft_config=lora(**changes))
    twin = DenseTwin(trainer, tiny_model)
    trainer.add_callback(twin)
    trainer.train()
    assert twin.moves == [2, 4]
    assert max(twin.differences) < 1e-5


def test_at_one_the_reference_is_the_policy_of_the_last_refresh(tiny_model, tmp_path):
    trainer = paired(tiny_model, tmp_path, config={"ref_model_mixup_alpha": 1.0, "max_steps": 4})
    trainer.train()
    policy, reference = adapter(trainer, "default"), adapter(trainer, "ref")
    assert all(torch.equal(value, reference[name.replace("default", "ref")]) for name, value in policy.items())
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_the_loss_after_a_refresh_is_that_against_a_merged_second_model(packing, tiny_model, tmp_path):
    trainer = paired(tiny_model, tmp_path, config={"packing": packing})
    trainer.train()
    moved = trainer.evaluate(trainer.train_dataset)
    other = paired(
        tiny_model, tmp_path, config={"sync_ref_model": False}, ref_model=merged(trainer, tiny_model, "ref")
    )
    policy = adapter(trainer, "default")
    for name, parameter in other.model.named_parameters():
        if name in policy:
            parameter.data = policy[name]
    against_merged = other.evaluate(trainer.train_dataset)
    for name in ("eval_loss", "eval_rewards/chosen", "eval_rewards/margins"):
        assert moved[name] == pytest.approx(against_merged[name], rel=1e-4, abs=1e-6), name
    fixed = paired(tiny_model, tmp_path, config={"sync_ref_model": False})
    fixed.model.load_state_dict(policy, strict=False)
    assert abs(fixed.evaluate(trainer.train_dataset)["eval_loss"] - moved["eval_loss"]) > 1e-3


@pytest.mark.parametrize("is_paired", [True, False])
def test_a_run_on_a_4_bit_base(is_paired, tiny_model, tmp_path, capsys, monkeypatch):
    """The base stays as it was, the optimizer never sees the reference, no cache is opened, the first loss is known."""
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "cache"))
    cls, config_class = METHODS["paired" if is_paired else "unpaired"].classes()
    trainer = cls(
        model=tiny_model,
        args=config_class(**settings(tmp_path / "run", gradient_checkpointing=True)),
        train_dataset=Dataset.from_list(pairs(24)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=lora(),
        quantization_config=nf4(),
    )

    def base():
        layers = [module for module in trainer.model.modules() if isinstance(module, bnb.nn.Linear4bit)]
        return [bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state) for layer in layers]

    before, start = base(), adapter(trainer, "ref")
    trainer.train()
    assert len(before) == 14 and all(torch.equal(a, b) for a, b in zip(before, base(), strict=True))
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for name, p in trainer.model.named_parameters() if ".default." in name}
    moved = adapter(trainer, "ref")
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in moved.values())
    assert any(not torch.equal(start[name], value) for name, value in moved.items())
    assert trainer.references.cache is None and not (tmp_path / "cache").exists()
    refreshes = [log for log in trainer.state.log_history if "reference/dropped" in log]
    assert [log["step"] for log in refreshes] == [2, 4]
    printed = capsys.readouterr().out
    assert "updated every 2 steps to 0.6·policy + 0.4·reference (TR-DPO, arXiv:2404.09656); its" in printed
    assert "the known value at policy = reference: correct" in printed
    assert printed.count("reference updated") == 2 and "step 4: reference updated" in printed


def continued(tiny_model, folder, **changes):
    """A model with a trained adapter to go on with."""
    if not folder.exists():
        first = paired(
            tiny_model, folder, config={"sync_ref_model": False, "max_steps": 2}, peft_config=lora(**changes)
        )
        first.train()
        first.save_model(str(folder))
    base = AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=nf4(), dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(folder), is_trainable=True)


@pytest.mark.parametrize("alpha", [0.6, 1.0])
def test_a_continued_adapter_is_the_first_reference(alpha, tiny_model, tmp_path, capsys):
    model = continued(tiny_model, tmp_path / "first", use_rslora=True)
    trainer = paired(
        tiny_model, tmp_path, model=model, peft_config=None, config={"ref_model_mixup_alpha": alpha, "max_steps": 1}
    )
    capsys.readouterr()
    reference = adapter(trainer, "ref")
    assert any(value.abs().sum() > 0 for name, value in reference.items() if "lora_B" in name)
    trainer.train()
    printed = capsys.readouterr().out
    assert "= 0.6931, the known value" in printed
    assert "never updated, because the run ends after 1 step and `ref_model_sync_steps` is 2" in printed


def test_an_adapter_that_does_not_start_at_zero_is_its_own_first_reference(tiny_model, tmp_path, capsys):
    """PiSSA takes the adapter's first value out of the base, once."""
    trainer = paired(tiny_model, tmp_path, peft_config=lora(init_lora_weights="pissa"), config={"max_steps": 1})
    assert all(value.abs().sum() > 0 for name, value in adapter(trainer, "ref").items())
    given = AutoModelForCausalLM.from_pretrained(tiny_model)
    for path, module in trainer.model.get_base_model().named_modules():
        if hasattr(module, "lora_A"):
            whole = module.base_layer.weight + module.get_delta_weight("ref")
            assert torch.allclose(whole, given.get_submodule(path).weight, atol=1e-5), path
    trainer.train()
    assert "= 0.6931, the known value" in capsys.readouterr().out


@pytest.mark.parametrize(("is_continued", "alpha"), [(False, 0.6), (True, 1.0)])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(is_continued, alpha, tiny_model, tmp_path):
    config = {"max_steps": 7, "save_strategy": "steps", "save_steps": 3, "ref_model_mixup_alpha": alpha}

    def trainer():
        if is_continued:
            return paired(
                tiny_model,
                tmp_path / "run",
                model=continued(tiny_model, tmp_path / "first"),
                peft_config=None,
                config=config,
            )
        return paired(tiny_model, tmp_path / "run", config=config, quantization_config=nf4())

    whole, resumed = trainer(), trainer()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    for name in ("default", "ref"):
        expected = adapter(whole, name)
        assert expected and all(torch.equal(value, expected[n]) for n, value in adapter(resumed, name).items())
    losses = [
        [log["loss"] for log in run.state.log_history if "loss" in log and log["step"] > 3] for run in (whole, resumed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_checkpoint_of_another_kind_of_reference_is_refused(tiny_model, tmp_path):
    config = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3}
    paired(tiny_model, tmp_path / "moving", config=config).train()
    paired(tiny_model, tmp_path / "fixed", config={**config, "sync_ref_model": False}).train()
    with pytest.raises(UserError, match=r"`sync_ref_model` true → false \(the checkpoint holds a moving reference\)"):
        paired(tiny_model, tmp_path, config={**config, "sync_ref_model": False}).train(
            str(tmp_path / "moving/checkpoint-3")
        )
    with pytest.raises(UserError, match="other shapes than this run's"):
        paired(tiny_model, tmp_path, config={**config, "ref_model_mixup_alpha": 1.0, "resume_changed": True}).train(
            str(tmp_path / "moving/checkpoint-3")
        )
    for name in ("moving", "fixed"):
        (tmp_path / name / "checkpoint-3" / manifest.FILE).unlink()  # as plain TRL leaves it
    with pytest.raises(UserError, match="written with a moving reference, and this run has a fixed one"):
        paired(tiny_model, tmp_path, config={"sync_ref_model": False}).train(str(tmp_path / "moving/checkpoint-3"))
    with pytest.raises(UserError, match="`sync_ref_model: false`, or start"):
        paired(tiny_model, tmp_path).train(str(tmp_path / "fixed/checkpoint-3"))


def test_full_fine_tuning_moves_trls_second_model_and_resumes_it(tiny_model, tmp_path, capsys):
    config = {"max_steps": 5, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-4}
    whole, resumed = (paired(tiny_model, tmp_path, peft_config=None, config=config) for _ in range(2))
    start = [p.clone() for p in whole.ref_model.parameters()]
    whole.train()
    assert "reference: a second model, updated every 2 steps to 0.6·policy" in capsys.readouterr().out
    assert any(not torch.equal(a, b) for a, b in zip(start, whole.ref_model.parameters(), strict=True))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for one, other in ((whole.model, resumed.model), (whole.ref_model, resumed.ref_model)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("config", "kwargs", "sentence"),
    [
        ({"loss": "simpo"}, {}, "the loss simpo does not read one"),
        ({"loss": "simpo"}, {"peft_config": None}, "the loss simpo does not read one"),
        ({"precompute_ref_log_probs": True}, {}, "Keep one of the two settings"),
        ({"ref_model_mixup_alpha": 0.0}, {}, "is 0, which never changes the reference"),
        ({"ref_model_sync_steps": 0}, {}, "at least 1"),
        ({}, {"peft_config": lora(use_dora=True)}, "does not support `use_dora`"),
        ({}, {"peft_config": lora(modules_to_save=["embed_tokens"])}, "does not support `modules_to_save`"),
        ({}, {"peft_config": LoraConfig(target_modules=["embed_tokens"])}, "is a Embedding"),
        ({}, {"ref_model": torch.nn.Linear(1, 1)}, "`ref_model` is a separate model"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_has_no_effect_or_cannot_be_exact_is_refused(config, kwargs, sentence, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        paired(tiny_model, tmp_path, config=config, **kwargs)


def test_a_recipe_leaves_a_plain_adapter(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Dataset.from_list(pairs(16)).to_json("pairs.jsonl")
    (tmp_path / "small.yaml").write_text(
        f"model_name_or_path: {tiny_model}\ndataset_name: pairs.jsonl\nuse_peft: true\nload_in_4bit: true\nlora_r: 4\n"
        "lora_target_modules: all-linear\nlearning_rate: 5e-4\nmax_steps: 5\nper_device_train_batch_size: 4\n"
        "save_strategy: steps\nsave_steps: 3\nlogging_steps: 1\nmax_length: 32\ndisable_tqdm: true\n"
        "sync_ref_model: true\nref_model_sync_steps: 2\nref_model_mixup_alpha: 0.6\n"
    )
    assert main(["run", "small.yaml", "--output_dir", "out"]) == 0
    assert capsys.readouterr().out.count("reference updated") == 2
    run = tmp_path / "out"
    assert not (run / "ref").exists() and not list(run.glob("*reference*"))
    assert (run / "checkpoint-3" / "trl_ext_reference.safetensors").exists()
    assert not any("ref" in name.split(".") for name in load_file(run / "adapter_model.safetensors"))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(run))
    assert any(p.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n)
    assert main(["run", "small.yaml", "--loss", "simpo"]) == 2
    assert "the loss simpo does not read one" in capsys.readouterr().err
