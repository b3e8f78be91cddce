"""A resume goes on bit by bit, refuses what is broken or of another run, and says what changed."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests.conftest import pairs
from tests.trainers.common.test_staged_checkpoint import BUILDERS
from tests.trainers.helpers import Payload, arguments, build, lora, nf4, weights
from trl_ext.checkpoints import found, manifest
from trl_ext.support.errors import UserError
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer, UnpairedPreferenceConfig
from trl_ext.trainers.common import provenance
from trl_ext.trainers.sft_and_reward import RewardModelConfig, SupervisedConfig

# 64 × 64 = 4096 elements: the fewest that bitsandbytes keeps in 8 bits.
WIDE = {"r": 64, "target_modules": ["q_proj", "gate_proj"]}
SETTINGS = {
    "save_strategy": "steps", "save_steps": 2, "max_steps": 4, "optim": "adamw_8bit", "learning_rate": 0.01,
    "lr_scheduler_type": "cosine", "max_grad_norm": 1.0, "disable_dropout": False,
}  # fmt: skip


def trainer_for(model, folder, *, examples=None, peft=None, **changes):
    config = PairedPreferenceConfig(**arguments(folder, **{**SETTINGS, **changes}))
    return build(
        PairedPreferenceTrainer,
        config,
        model,
        examples=examples,
        peft_config=lora(**{**WIDE, "lora_dropout": 0.2, **(peft or {})}),
        quantization_config=nf4(),
    )


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """Directory of an uninterrupted run with checkpoints 2 and 4, and its weights."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = trainer_for(tiny_model, folder)
    trainer.train()
    return folder, weights(trainer)


@pytest.fixture
def run(whole, tmp_path):
    """A copy of that run to break."""
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run"


def tensors(state):
    """Names and tensors of an optimizer's state, which bitsandbytes nests when it saves."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from tensors(value)
        elif isinstance(value, torch.Tensor):
            yield name, value


@pytest.mark.parametrize("optim", ["adamw_8bit", "adamw_bnb_8bit"])
def test_an_8_bit_optimizer_and_dropout_go_on_to_the_bit(whole, tiny_model, tmp_path, optim):
    checkpoint = whole[0] / "checkpoint-2"
    resumed = trainer_for(tiny_model, tmp_path, optim=optim)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    kept = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    eight_bit = {"state1": torch.uint8, "state2": torch.uint8}
    for states in (kept, resumed.optimizer.state):
        found_dtypes = [{k: v.dtype for k, v in tensors(state) if k in eight_bit} for state in states.values()]
        assert found_dtypes == [eight_bit] * 8  # A and B of two projections in two layers
    measured = weights(resumed)
    assert [name for name, value in whole[1].items() if not torch.equal(value, measured[name])] == []


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbage(path: Path) -> None:
    path.write_text('{"global_step": ')


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BROKEN = [
    ("adapter_model.safetensors", truncate, "has .* bytes instead of"),
    ("adapter_model.safetensors", Path.unlink, "is missing"),
    ("adapter_model.safetensors", flip, "has changed since it was written"),
    ("optimizer.pt", truncate, "has .* bytes instead of"),
    ("optimizer.pt", Path.unlink, "is missing"),
    ("scheduler.pt", truncate, "has .* bytes instead of"),
    ("rng_state.pth", Path.unlink, "is missing"),
    ("trainer_state.json", garbage, "has .* bytes instead of"),
    ("trl_ext_counters.json", Path.unlink, "is missing"),
    (manifest.FILE, garbage, "cannot be read"),
]
BROKEN_WITHOUT_MANIFEST = [
    ("adapter_model.safetensors", truncate, "is truncated"),
    ("adapter_model.safetensors", Path.unlink, "is missing"),
    ("optimizer.pt", truncate, "is truncated"),
    ("optimizer.pt", Path.unlink, "is missing"),
    ("scheduler.pt", Path.unlink, "is missing"),
    ("rng_state.pth", truncate, "is truncated"),
    ("trainer_state.json", garbage, "is not JSON"),
    ("trainer_state.json", Path.unlink, "is missing"),
]


@pytest.mark.parametrize(
    ("has_manifest", "name", "damage", "said"),
    [(True, *case) for case in BROKEN] + [(False, *case) for case in BROKEN_WITHOUT_MANIFEST],
)
def test_a_broken_file_is_named_and_so_is_the_checkpoint_to_resume(run, has_manifest, name, damage, said):
    checkpoint = run / "checkpoint-4"
    if not has_manifest:
        (checkpoint / manifest.FILE).unlink()
    assert found.latest(run) == checkpoint
    damage(checkpoint / name)
    with pytest.raises(UserError, match=f"{name}.*{said}.*. Resume .*checkpoint-2 instead") as caught:
        found.require_whole(checkpoint)
    assert "\n" not in str(caught.value)
    assert found.latest(run) == run / "checkpoint-2"


def test_a_broken_checkpoint_is_passed_over_and_refused_by_name(run, tiny_model, tmp_path, whole, capsys):
    truncate(run / "checkpoint-4" / "optimizer.pt")
    with pytest.raises(UserError, match=r"optimizer.pt has .* Resume .*checkpoint-2 instead"):
        trainer_for(tiny_model, tmp_path / "new").train(resume_from_checkpoint=str(run / "checkpoint-4"))
    resumed = trainer_for(tiny_model, run)
    resumed.train(resume_from_checkpoint=True)
    assert (
        "resuming checkpoint-2; newer checkpoints are incomplete: checkpoint-4 (optimizer.pt has"
        in capsys.readouterr().out
    )
    assert all(torch.equal(value, whole[1][name]) for name, value in weights(resumed).items())
    assert found.latest(run) == run / "checkpoint-4"  # written again, whole
    with pytest.raises(UserError, match="holds no checkpoint"):
        trainer_for(tiny_model, tmp_path / "empty").train(resume_from_checkpoint=True)


def test_a_run_that_ended_before_it_wrote_its_result_trains_no_further(whole, tiny_model, tmp_path, capsys):
    trainer = trainer_for(tiny_model, tmp_path)
    trainer.train(resume_from_checkpoint=str(whole[0] / "checkpoint-4"))
    assert trainer.state.global_step == 4 and "nothing is left to train" in capsys.readouterr().out
    assert all(torch.equal(value, whole[1][name]) for name, value in weights(trainer).items())


def test_weights_alone_resume_with_a_sentence(tiny_model, tmp_path, capsys):
    trainer_for(tiny_model, tmp_path, save_only_model=True, save_steps=3).train()
    resumed = trainer_for(tiny_model, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert "the optimizer and the learning-rate schedule start again from the beginning" in capsys.readouterr().out
    assert resumed.recorder.logs[-1]["learning_rate"] == 0.01


def test_a_checkpoint_of_plain_trl_is_resumed(tiny_model, tmp_path):
    settings = arguments(tmp_path, **SETTINGS | {"optim": "adamw_torch"})
    plain = build(DPOTrainer, DPOConfig(**settings), tiny_model, peft_config=lora(**WIDE))
    plain.train()
    resumed = trainer_for(tiny_model, tmp_path / "ours", optim="adamw_torch", peft={"lora_dropout": 0.0})
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4 and resumed.recorder.logs[0]["learning_rate"] < 0.01
    with pytest.raises(
        UserError, match=r"its weights cannot be loaded \(.*size mismatch|its weights cannot be loaded"
    ):
        other = trainer_for(tiny_model, tmp_path / "other", optim="adamw_torch", peft={"r": 8})
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


# What changed -------------------------------------------------------------------------------------------------------

HARMFUL = [
    ({"beta": 0.5}, "`beta` 0.1 → 0.5"),
    ({"loss": "ipo"}, "`loss` dpo → ipo"),
    ({"learning_rate": 0.02}, "`learning_rate` 0.01 → 0.02"),
    ({"lr_scheduler_type": "linear"}, "`lr_scheduler_type` cosine → linear"),
    ({"per_device_train_batch_size": 4}, "`per_device_train_batch_size` 8 → 4"),
    ({"max_length": 20}, "`max_length` 24 → 20"),
    ({"seed": 4}, "`seed` 3 → 4"),
    ({"data_seed": 4}, "`data_seed` none → 4"),
    ({"max_grad_norm": 0.5}, "`max_grad_norm` 1.0 → 0.5"),
    (
        {"max_steps": 6},
        "`max_steps` 4 → 6 (the cosine learning-rate schedule spans the whole run, so the rate would jump)",
    ),
    ({"peft": {"lora_alpha": 16}}, "`lora_alpha` 8 → 16"),
    ({"examples": pairs(20)}, "`training data` 24 examples → 20 examples"),
    ({"examples": pairs(24, seed=1)}, "`training data` 24 examples → 24 examples (other examples, or other"),
]
IMPOSSIBLE = [
    ({"optim": "adamw_torch"}, "`optim` adamw_8bit → adamw_torch (the saved state is of another optimizer)"),
    ({"peft": {"r": 32}}, "`lora_r` 64 → 32"),
    ({"peft": {"target_modules": ["q_proj"]}}, "`lora_target_modules` [gate_proj, q_proj] → [q_proj]"),
]


@pytest.mark.parametrize(("changed", "said"), HARMFUL + IMPOSSIBLE)
def test_what_changes_the_result_is_refused_and_named(whole, tiny_model, tmp_path, changed, said):
    trainer = trainer_for(tiny_model, tmp_path, **changed)
    with pytest.raises(UserError) as caught:
        trainer.train(resume_from_checkpoint=str(whole[0] / "checkpoint-2"))
    sentence = str(caught.value)
    assert "checkpoint-2 was written with other settings: " in sentence and said in sentence and "\n" not in sentence
    assert ("resume_changed: true" in sentence) == ((changed, said) in HARMFUL)


@pytest.mark.parametrize(("changed", "said"), IMPOSSIBLE)
def test_what_does_not_fit_cannot_be_allowed(whole, tiny_model, tmp_path, changed, said):
    trainer = trainer_for(tiny_model, tmp_path, resume_changed=True, **changed)
    with pytest.raises(UserError, match="the saved state does not fit another"):
        trainer.train(resume_from_checkpoint=str(whole[0] / "checkpoint-2"))


def test_every_change_is_in_one_sentence(whole, tiny_model, tmp_path):
    trainer = trainer_for(tiny_model, tmp_path, beta=0.5, learning_rate=0.02, examples=pairs(20), peft={"r": 32})
    with pytest.raises(UserError) as caught:
        trainer.train(resume_from_checkpoint=str(whole[0] / "checkpoint-2"))
    for name in ("beta", "learning_rate", "training data", "lora_r"):
        assert f"`{name}`" in str(caught.value)
    assert "does not fit another `lora_r`." in str(caught.value)


def test_an_allowed_change_takes_effect_and_is_said(whole, tiny_model, tmp_path, capsys):
    checkpoint = str(whole[0] / "checkpoint-2")
    changed = {"learning_rate": 0.02, "weight_decay": 0.1, "beta": 0.5}
    trainer = trainer_for(tiny_model, tmp_path, resume_changed=True, **changed)
    trainer.train(resume_from_checkpoint=checkpoint)
    printed = capsys.readouterr().out
    assert "with changed settings (`resume_changed`): " in printed and "`learning_rate` 0.01 → 0.02" in printed
    # The cosine of four steps, entered at step 2: half of the new rate, then (1 + cos(3π/4))/2 of it.
    rates = [log["learning_rate"] for log in trainer.recorder.logs]
    assert rates == pytest.approx([0.02 * 0.5, 0.02 * 0.14644661])
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups if group["params"]} == {0.1}


def test_what_leaves_the_result_alone_is_noted_and_takes_effect(whole, tiny_model, tmp_path, capsys):
    changed = {
        "save_steps": 1, "logging_steps": 2, "row_tokens": 10_000, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2, "optim": "adamw_bnb_8bit", "num_train_epochs": 9,
    }  # fmt: skip
    trainer = trainer_for(tiny_model, tmp_path, **changed)
    trainer.train(resume_from_checkpoint=str(whole[0] / "checkpoint-2"))
    note = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("changed since checkpoint-2"))
    for part in ("`save_steps` 2 → 1", "`per_device_train_batch_size` 8 → 4 (the same number of examples per step)"):
        assert part in note
    assert (tmp_path / "checkpoint-3").is_dir()


def test_a_longer_run_is_harmless_under_a_constant_rate(tiny_model, tmp_path, capsys):
    constant = {"lr_scheduler_type": "constant", "save_steps": 1}
    trainer_for(tiny_model, tmp_path, max_steps=1, **constant).train()
    trainer = trainer_for(tiny_model, tmp_path, max_steps=2, **constant)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2 and "`max_steps` 1 → 2" in capsys.readouterr().out


def test_a_model_is_known_by_its_weights_not_by_its_place(whole, tiny_model, tmp_path):
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    trainer_for(str(moved), tmp_path / "a").train(resume_from_checkpoint=str(whole[0] / "checkpoint-2"))
    other = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(-1)
    same_name = tmp_path / Path(tiny_model).name
    shutil.copytree(tiny_model, same_name)
    other.save_pretrained(same_name)
    with pytest.raises(UserError, match=r"`model_name_or_path` .* \(its weights differ\)"):
        trainer_for(str(same_name), tmp_path / "b").train(resume_from_checkpoint=str(whole[0] / "checkpoint-2"))


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_configuration_is_the_same_before_and_after_a_trainer_is_built(kind, tiny_model, tmp_path, monkeypatch):
    """Else an early look at the configuration would refuse a resume that nothing speaks against."""
    early = []
    for cls in (PairedPreferenceConfig, UnpairedPreferenceConfig, SupervisedConfig, RewardModelConfig):
        real = cls.__post_init__

        def remembered(self, real=real):
            real(self)
            early.append(provenance.of_arguments(self))

        monkeypatch.setattr(cls, "__post_init__", remembered)
    late = provenance.of_arguments(BUILDERS[kind](tiny_model, tmp_path).args)
    assert {name: (value, late.get(name)) for name, value in early[0].items() if value != late.get(name)} == {}


def test_the_data_are_known_by_their_content(tmp_path):
    rows = [
        {"ids": list(range(i % 5)), "text": f"row {i}", "turns": [{"role": "user", "n": None}]} for i in range(2500)
    ]
    dataset = Dataset.from_list(rows)
    digest = provenance._data(dataset)
    dataset.save_to_disk(tmp_path / "stored")
    stored = Dataset.load_from_disk(tmp_path / "stored").select(range(2500)[::-1]).select(range(2500)[::-1])
    assert provenance._data(stored) == digest == provenance._data(dataset.add_column("ref_x", [0.0] * 2500))
    rows[1234]["ids"] = [7]
    assert provenance._data(Dataset.from_list(rows))["digest"] != digest["digest"]
    assert provenance._data(dataset.to_iterable_dataset()) is None


# Nothing that is read runs code ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [torch.save, lambda payload, path: path.write_bytes(pickle.dumps(payload))])
@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "adapter_model.bin"]
)
def test_a_pickle_in_a_checkpoint_never_runs(run, tiny_model, tmp_path, name, how):
    checkpoint, marker = run / "checkpoint-2", tmp_path / "ran"
    (checkpoint / manifest.FILE).unlink()  # whoever can put a pickle there can do this too
    if name == "adapter_model.bin":
        (checkpoint / "adapter_model.safetensors").unlink()
    how(Payload(marker), checkpoint / name)
    trainer = trainer_for(tiny_model, tmp_path / "new")
    if name == "training_args.bin":  # written by transformers and never read
        trainer.train(resume_from_checkpoint=str(checkpoint))
    else:
        with pytest.raises(UserError) as caught:
            trainer.train(resume_from_checkpoint=str(checkpoint))
        assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_a_pickle_in_place_of_safetensors_never_runs(run, tiny_model, tmp_path):
    checkpoint, marker = run / "checkpoint-2", tmp_path / "ran"
    (checkpoint / manifest.FILE).unlink()
    (checkpoint / "adapter_model.safetensors").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(UserError, match=r"adapter_model.safetensors is truncated"):
        trainer_for(tiny_model, tmp_path / "new").train(resume_from_checkpoint=str(checkpoint))
    assert not marker.exists()


def test_weights_that_are_no_adapter_of_this_run_are_refused(run, tiny_model, tmp_path):
    checkpoint = run / "checkpoint-2"
    (checkpoint / manifest.FILE).unlink()
    file = checkpoint / "adapter_model.safetensors"
    save_file({name: value[:1].contiguous() for name, value in load_file(file).items()}, file)
    with pytest.raises(UserError, match="its weights cannot be loaded"):
        trainer_for(tiny_model, tmp_path / "new").train(resume_from_checkpoint=str(checkpoint))
    assert AutoTokenizer.from_pretrained(checkpoint)
