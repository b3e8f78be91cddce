"""Two CPU processes choose the same weights to sample from, and one step of GRPO on both is the step on all completions."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.trainers.helpers import relative_difference
from tests.trainers.ppo import papers, separate
from tests.trainers.ppo.test_two_processes import launched
from tests.trainers.rollout.two_processes_sampling import BETA

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(model, tmp_path_factory) -> list[dict]:
    output = tmp_path_factory.mktemp("sampling")
    launched("tests.trainers.rollout.two_processes_sampling", model, output)
    return [torch.load(output / f"sampling{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("fault", "choice"),
    [("none", "merged"), ("free memory", "adapter"), ("the copy", "adapter"), ("sampling", "adapter")],
)
def test_one_choice_for_all_processes(ranks, fault, choice):
    """Whichever process lacks memory, and whenever that shows."""
    assert [rank[fault]["choice"] for rank in ranks] == [choice] * 2
    first, second = (rank[fault]["logs"][0] for rank in ranks)
    assert first.keys() == second.keys()
    # Where memory runs out while the second process samples, the first has sampled from the copy.
    assert ("sampling/logp_difference/max" in first) == (fault in ("none", "sampling"))
    assert relative_difference(ranks[0][fault]["gradients"], ranks[1][fault]["gradients"]) == 0


def test_a_step_of_grpo_is_that_on_the_completions_of_both(model, ranks):
    """With ratio 1, the gradient of k3+ times β is that of −β·log(π/π_ref) in place of an advantage."""
    found = [rank["grpo"] for rank in ranks]
    policy = separate._model(model, found[0]["weights"], "default", None)
    reference = AutoModelForCausalLM.from_pretrained(model)
    batches, apart, masks = [], [], []
    for batch in (batch for rank in found for batch in rank["batches"]):
        with torch.no_grad():
            d = (separate._logps(policy, batch) - separate._logps(reference, batch)) * batch["loss_mask"]
        assert "old_per_token_logps" not in batch
        batches.append(batch | {"token_advantages": batch["token_advantages"] - BETA * d})
        apart.append(d.sum(1))
        masks.append(batch["loss_mask"].sum(1))
    expected = papers.policy_gradient(model, found[0]["weights"], batches, "token")
    d, tokens = torch.cat(apart), torch.cat(masks)
    for rank in found:
        assert relative_difference(rank["gradients"], expected) < 1e-4
        assert rank["logs"][0]["kl/k1"] == pytest.approx((d.sum() / tokens.sum()).item(), rel=1e-3)
        assert rank["logs"][0]["kl/sequence"] == pytest.approx(d.mean().item(), rel=1e-3)
