"""Two CPU processes, each with its own completions, take one step on all of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests.old_versions import skip_without_resume_on_two_cpus
from tests.trainers.helpers import relative_difference
from tests.trainers.ppo import papers, separate
from trl_ext.rl import advantages

pytestmark = pytest.mark.slow


def launched(script: str, model: str, output: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", script, model, str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[3]
    finished = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=1200)
    assert finished.returncode == 0, finished.stderr[-3000:]


@pytest.fixture(scope="module")
def ranks(model, tmp_path_factory) -> list[dict]:
    output = tmp_path_factory.mktemp("two")
    launched("tests.trainers.ppo.two_processes", model, output)
    return [torch.load(output / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def resumed(model, tmp_path_factory) -> list[dict]:
    skip_without_resume_on_two_cpus()
    output = tmp_path_factory.mktemp("resumed")
    launched("tests.trainers.ppo.two_processes_resumed", model, output)
    return [torch.load(output / f"resumed{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def grouped(model, tmp_path_factory) -> list[dict]:
    output = tmp_path_factory.mktemp("grouped")
    launched("tests.trainers.ppo.two_processes_groups", model, output)
    return [torch.load(output / f"groups{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_both_roles_step_on_the_mean_of_both_processes(model, ranks):
    assert not torch.equal(ranks[0]["batches"][0]["completion_ids"], ranks[1]["batches"][0]["completion_ids"])
    batches = [batch for rank in ranks for batch in rank["batches"]]
    expected = separate.gradients(model, ranks[0]["weights"], batches)
    for rank in ranks:
        assert relative_difference(rank["weights"], ranks[0]["weights"]) == 0
        for is_role in (separate.is_critic, lambda name: not separate.is_critic(name)):
            part = [{n: g for n, g in found.items() if is_role(n)} for found in (rank["gradients"], expected)]
            assert relative_difference(*part) < 1e-5


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


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_run_resumed_on_two_processes_is_the_uninterrupted_run(resumed, step):
    """Steps 1 and 3 lie inside the first rollout, 4 between two."""
    for rank in resumed:
        whole, again = rank["whole"], rank[step]
        assert [
            name for name in whole["weights"] if not torch.equal(whole["weights"][name], again["weights"][name])
        ] == []
        assert whole["kl_coef"] == again["kl_coef"] != 0.05
        for log, expected in zip(again["logs"], whole["logs"][step:], strict=True):
            assert log.keys() == expected.keys()
            assert {name for name in log if log[name] != expected[name]} <= {"step_time"}
    first, second = (rank["whole"]["last batches"][0]["completion_ids"] for rank in resumed)
    assert first.shape != second.shape or not torch.equal(first, second)  # each process has its own rollout


def test_importance_weights_are_those_of_both_processes(model, resumed):
    """The last step is the second on its rollout, but the first epoch over these completions: the policy has moved once."""
    ratios = []
    for rank in resumed:
        whole = rank["whole"]
        found = separate.log_ratios(model, whole["weights before the last step"], whole["last batches"])
        ratios.append(torch.cat([ratio.sum(1).exp() for ratio in found]))
    log = resumed[0]["whole"]["logs"][-1]
    assert log["kl_weight/mean"] == pytest.approx(torch.cat(ratios).mean().item(), rel=1e-4)
    assert log["kl_weight/max"] == pytest.approx(torch.cat(ratios).max().item(), rel=1e-4)
    assert ratios[0].max() != pytest.approx(ratios[1].max().item(), rel=1e-3) and log["kl_weight/max"] > 1.001


@pytest.mark.parametrize(
    "name", [name for name in advantages.available() if not advantages.describe(name).needs_critic]
)
def test_a_prompt_on_both_processes_is_one_group(model, grouped, name):
    """Advantages and gradient are those of all completions together, as on a single process."""
    ranks = [rank[name] for rank in grouped]
    batches = [batch for rank in ranks for batch in rank["batches"]]
    length = max(batch["completion_ids"].size(1) for batch in batches)
    widest = max(batch["prompt_ids"].size(1) for batch in batches)
    rows = [_padded(batch, widest, length) for batch in batches]
    whole = papers.by_prompt({key: torch.cat([row[key] for row in rows]) for key in rows[0]})
    prompts = [
        {tuple(ids.tolist()) for row in rows[first : first + 2] for ids in row["prompt_ids"]} for first in (0, 2)
    ]
    if advantages.describe(name).needs_groups:
        assert len(prompts[0] & prompts[1]) == 1 and len(prompts[0] | prompts[1]) == 3
    if name != "remax":  # whose baselines are computed row by row
        formula = papers.expected(name, whole, AutoTokenizer.from_pretrained(model))
        assert torch.allclose(whole["token_advantages"].double(), formula, atol=2e-5)
    expected = papers.policy_gradient(model, ranks[0]["weights"], batches, ranks[0]["aggregation"])
    for rank in ranks:
        assert relative_difference(rank["gradients"], expected) < 1e-4
        assert rank["log"].get("frac_reward_zero_std") == ranks[0]["log"].get("frac_reward_zero_std")


ROWS = (
    "prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "old_per_token_logps", "ref_per_token_logps",
    "token_advantages",
)  # fmt: skip


def _padded(batch: dict, prompt: int, completion: int) -> dict:
    """The tensors of a batch with zeros up to these widths: prompts on the left, completions on the right."""
    found = {}
    for key in ROWS:
        missing = (prompt if "prompt" in key else completion) - batch[key].size(1)
        found[key] = torch.nn.functional.pad(batch[key], (missing, 0) if "prompt" in key else (0, missing))
    return found
