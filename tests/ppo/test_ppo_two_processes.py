"""Two CPU processes, each with its own completions, take one step on all of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ppo import separate
from tests.trainers.helpers import relative_difference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(model, tmp_path_factory) -> list[dict]:
    output = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.ppo.two_processes", model, str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    finished = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return [torch.load(output / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_both_roles_step_on_the_mean_of_both_processes(model, ranks):
    assert not torch.equal(ranks[0]["batches"][0]["completion_ids"], ranks[1]["batches"][0]["completion_ids"])
    batches = [batch for rank in ranks for batch in rank["batches"]]
    expected = separate.gradients(model, ranks[0]["weights"], batches)
    for rank in ranks:
        assert relative_difference(rank["weights"], ranks[0]["weights"]) == 0
        for is_role in (separate.is_critic, lambda name: not separate.is_critic(name)):
            part = [{n: g for n, g in found.items() if is_role(n)} for found in (rank["gradients"], expected)]
            assert relative_difference(*part) < 1e-6


def test_whitening_length_and_kl_are_those_of_the_whole_rollout(ranks):
    masks, advantages = (
        torch.cat([batch[name].flatten() for rank in ranks for batch in rank["batches"]])
        for name in ("loss_mask", "token_advantages")
    )
    assert advantages[masks.bool()].mean().item() == pytest.approx(0, abs=1e-6)
    assert advantages[masks.bool()].std().item() == pytest.approx(1, rel=1e-4)
    lengths = {batch["mean_length"].item() for rank in ranks for batch in rank["batches"]}
    assert lengths == {masks.sum().item() / 8}
    kl = ranks[0]["logs"][0]["kl/sequence"]
    expected = 0.05 * (1 + min(max(kl / 0.05 - 1, -0.2), 0.2) * 8 / 100)
    assert ranks[0]["kl_coef"] == ranks[1]["kl_coef"] == pytest.approx(expected)
