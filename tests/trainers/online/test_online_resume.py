"""Checkpoints: a plain adapter, and a resumed run is the uninterrupted one."""

import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.trainers.helpers import nf4
from tests.trainers.online.helpers import build, config, few_levels
from tests.trainers.ppo import resuming
from trl_ext.support.errors import UserError

STEPS = 6
SETTINGS = {**resuming.SETTINGS, "max_steps": STEPS}


def trained(model, folder, checkpoint=None, **changes):
    args = config(folder, **SETTINGS | changes)
    return resuming.trained(build(model, args, quantization_config=nf4(), reward_funcs=few_levels), checkpoint)


@pytest.fixture(scope="module")
def uninterrupted(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = trained(model, folder)
    return folder, resuming.weights(trainer), trainer.recorder.logs


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_run_resumed_from_any_step_is_the_uninterrupted_run(model, uninterrupted, tmp_path, capsys, step):
    """Steps 1 to 3 and 5 lie inside a rollout, 4 between two."""
    folder, expected, logs = uninterrupted
    trainer = trained(model, tmp_path, str(folder / f"checkpoint-{step}"))
    assert len(trainer.recorder.logs) == STEPS - step
    resuming.check_same(trainer, expected, logs)
    assert "first step" not in capsys.readouterr().out  # no loss is known in advance here


def test_a_rollout_is_saved_only_while_it_is_needed(uninterrupted):
    assert resuming.steps_with_a_rollout(uninterrupted[0], "online_state", STEPS) == [1, 2, 3, 5, 6]


def test_a_checkpoint_is_a_plain_adapter(model, uninterrupted):
    folder, expected, _ = uninterrupted
    checkpoint = folder / f"checkpoint-{STEPS}"
    assert not [path for path in checkpoint.iterdir() if path.is_dir()]
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(checkpoint))
    for name, parameter in policy.named_parameters():
        if ".default." in name:
            assert torch.equal(parameter, expected[name])


def test_what_cannot_be_resumed_is_refused(model, uninterrupted, tmp_path):
    checkpoint = uninterrupted[0] / "checkpoint-2"
    with pytest.raises(UserError, match="`num_generations` 2 → 4"):
        trained(model, tmp_path, str(checkpoint), num_generations=4)
    shutil.copytree(checkpoint, tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "online_state_0.pt").unlink()
    with pytest.raises(UserError, match=r"online_state_0\.pt is missing"):
        trained(model, tmp_path, str(tmp_path / "checkpoint-2"))
