"""The state of a rollout in a checkpoint, without a trainer."""

from types import SimpleNamespace

import pytest
import torch

from trl_ext.support.errors import UserError
from trl_ext.trainers.rollout.checkpoint import RolloutFiles

ROLLOUT = [{"completion_ids": torch.arange(6).view(2, 3)}]


def files(**changes):
    """Two micro-batches a rollout, each used twice: a rollout ends after every fourth."""
    settings = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 2,
        "num_iterations": 2,
        "num_generations": 1,
        "world_size": 1,
        "process_index": 0,
        "device": torch.device("cpu"),
    }
    return RolloutFiles(SimpleNamespace(**{**settings, **changes}), method="a test", state_name="test_state")


@pytest.mark.parametrize(("step", "is_kept"), [(1, True), (3, True), (4, False), (5, True), (8, False)])
def test_a_rollout_is_kept_while_a_later_step_needs_it(step, is_kept, tmp_path):
    files().save_state(tmp_path / "checkpoint", step=step, rollout=ROLLOUT, update={"row_budget": 512})
    state = files().load_state(tmp_path / "checkpoint")
    assert (state["step"], state["row_budget"], state["rollout"] is not None) == (step, 512, is_kept)
    if is_kept:
        assert torch.equal(state["rollout"][0]["completion_ids"], ROLLOUT[0]["completion_ids"])


def test_another_schedule_and_a_missing_file_are_refused(tmp_path):
    files().save_state(tmp_path, step=1, rollout=ROLLOUT, update={})
    with pytest.raises(UserError, match="num_generations was 1 and is 4, processes was 1 and is 2"):
        files(num_generations=4, world_size=2).load_state(tmp_path)
    with pytest.raises(UserError, match=r"as a run of a test: test_state_1\.pt is missing"):
        files(process_index=1).load_state(tmp_path)
