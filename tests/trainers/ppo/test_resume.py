"""Checkpoints: what lies where, and that a resumed run is the uninterrupted one."""

import pickle
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.trainers.helpers import Payload, nf4
from tests.trainers.ppo import resuming
from tests.trainers.ppo.helpers import build, config
from trl_ext.checkpoints import manifest, staging
from trl_ext.support.errors import UserError
from trl_ext.trainers.common import activation_memory
from trl_ext.trainers.rollout import roles

STEPS = 10
SETTINGS = {
    **resuming.SETTINGS,
    "max_steps": STEPS,
    "kl_controller": "adaptive",
    "kl_target": 0.05,
    "kl_horizon": 100,
}


def trained(model, folder, checkpoint=None, **options):
    return resuming.trained(build(model, config(folder, **SETTINGS), quantization_config=nf4(), **options), checkpoint)


@pytest.fixture(scope="module")
def uninterrupted(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = trained(model, folder)
    return folder, resuming.weights(trainer), trainer.recorder.logs, trainer.kl_controller.value


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_run_resumed_from_any_step_is_the_uninterrupted_run(model, uninterrupted, tmp_path, step):
    """Steps 1 to 3 lie inside the first rollout, 4 and 8 between two rollouts and two epochs."""
    folder, expected, logs, coefficient = uninterrupted
    trainer = trained(model, tmp_path, str(folder / f"checkpoint-{step}"))
    assert len(trainer.recorder.logs) == STEPS - step
    resuming.check_same(trainer, expected, logs)
    assert trainer.kl_controller.value == coefficient


def test_a_run_that_chooses_its_layers_resumes_with_others(model, tmp_path, monkeypatch):
    """`gradient_checkpointing: auto` measures memory again, and may find more or less of it."""

    def with_free(free, folder, checkpoint=None):
        monkeypatch.setattr(activation_memory, "free_for_activations", lambda *_: free)
        args = config(folder, **SETTINGS | {"max_steps": 4, "gradient_checkpointing": "auto"})
        return resuming.trained(build(model, args, quantization_config=nf4()), checkpoint)

    whole = with_free(2**40, tmp_path / "whole")
    resumed = with_free(0, tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-2"))
    resuming.check_same(resumed, resuming.weights(whole), whole.recorder.logs)
    assert len(resumed.recorder.logs) == 2
    assert (whole.rows.memory.checkpointed_layers, resumed.rows.memory.checkpointed_layers) == (0, 2)


def test_the_run_directory_is_a_plain_adapter(model, uninterrupted):
    folder, expected, _, _ = uninterrupted
    checkpoint = folder / f"checkpoint-{STEPS}"
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(checkpoint))
    assert set(policy.peft_config) == {"default"}
    for name, parameter in policy.named_parameters():
        if ".default." in name:
            assert torch.equal(parameter, expected[name])
    head = load_file(checkpoint / "critic" / "value_head.safetensors")
    assert torch.equal(head["weight"], expected["value_head.weight"]) and head["weight"].any()
    critic = load_file(checkpoint / "critic" / "adapter_model.safetensors")
    for name, value in critic.items():
        assert torch.equal(value, expected[name.replace(".weight", ".critic.weight")])


def test_a_rollout_is_saved_only_while_it_is_needed(uninterrupted):
    assert resuming.steps_with_a_rollout(uninterrupted[0], "ppo_state", STEPS) == [1, 2, 3, 5, 6, 7, 9, 10]


def test_a_checkpoint_is_listed_whole_with_its_critic_and_its_rollout(uninterrupted):
    checkpoint = uninterrupted[0] / "checkpoint-2"
    listed = set(manifest.read(checkpoint)["files"])
    critic = {"critic/adapter_model.safetensors", "critic/value_head.safetensors"}
    assert critic | {"ppo_state_0.pt", "optimizer.pt", "trainer_state.json"} <= listed
    assert manifest.damage(checkpoint) is None and not (uninterrupted[0] / staging.FOLDER).exists()


@pytest.mark.parametrize("how", [torch.save, lambda payload, path: path.write_bytes(pickle.dumps(payload))])
def test_a_pickle_in_place_of_the_rollout_never_runs(model, uninterrupted, tmp_path, how):
    checkpoint = shutil.copytree(uninterrupted[0] / "checkpoint-2", tmp_path / "checkpoint-2")
    (checkpoint / manifest.FILE).unlink()
    how(Payload(tmp_path / "ran"), checkpoint / "ppo_state_0.pt")
    with pytest.raises(UserError, match=r"never loaded|ppo_state_0.pt is truncated"):
        trained(model, tmp_path / "resumed", str(checkpoint))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("missing", ["critic/value_head.safetensors", "ppo_state_0.pt"])
def test_a_checkpoint_without_its_critic_or_state_is_refused(model, uninterrupted, tmp_path, missing):
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(uninterrupted[0] / "checkpoint-2", checkpoint)
    (checkpoint / missing).unlink()
    with pytest.raises(UserError, match=f"{missing} is missing"):
        trained(model, tmp_path / "resumed", str(checkpoint))


def test_the_frozen_copy_of_a_continued_adapter_is_not_saved(model, uninterrupted, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(model, quantization_config=nf4())
    start = PeftModel.from_pretrained(base, str(uninterrupted[0] / "checkpoint-3"), is_trainable=True)
    trainer = build(start, config(tmp_path, max_steps=1), path=model, peft_config=None, randomise=False)
    assert set(trainer.model.peft_config) == {"default", "ref", "critic"}
    trainer.save_model(str(tmp_path / "saved"))
    assert {path.name for path in (tmp_path / "saved").iterdir() if path.is_dir()} == {roles.CRITIC}


@pytest.mark.parametrize("changed", [{"num_iterations": 1}, {"gradient_accumulation_steps": 4}])
def test_another_schedule_of_rollouts_is_refused_in_one_sentence(model, uninterrupted, tmp_path, changed):
    folder = uninterrupted[0]
    trainer = build(model, config(tmp_path, **SETTINGS | changed), quantization_config=nf4())
    sentence = f"`{next(iter(changed))}` . → {next(iter(changed.values()))} .the saved rollout was cut for this value"
    with pytest.raises(UserError, match=sentence):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))


def test_a_resumed_run_goes_by_the_fixed_coefficient_it_is_given(model, tmp_path):
    fixed = {k: v for k, v in SETTINGS.items() if not k.startswith("kl_")} | {"max_steps": 2, "save_steps": 1}
    build(model, config(tmp_path, **fixed, kl_coef=0.05), quantization_config=nf4()).train()
    trainer = build(model, config(tmp_path, **fixed, kl_coef=0.5, resume_changed=True), quantization_config=nf4())
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert trainer.kl_controller.value == 0.5
