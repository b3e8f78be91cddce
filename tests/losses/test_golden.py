"""Every vector produced by the authors' own functions: value, gradient and, where defined alike, rewards.

`golden.json` keeps each case's origin (repository, file, line, revision). Inputs come per sequence or per
token; losses here read sums and lengths, so tokens are summed first and gradients taken back to tokens.
"""

import json
from pathlib import Path

import pytest
import torch

from trl_ext import losses

CASES = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))["cases"]
LOSS_OF_FAMILY = {
    "dpo": ("dpo", {}),
    "cdpo": ("dpo", {}),
    "dpo_sigmoid": ("dpo", {}),
    "dpo_sigmoid_ls": ("dpo", {}),
    "trl_sigmoid": ("dpo", {}),
    "dpo_robust_ls": ("robust", {}),
    "trl_robust": ("robust", {}),
    "ipo_sum": ("ipo", {"average": False}),
    "ipo_avg": ("ipo", {}),
    "trl_ipo": ("ipo", {}),
    "trl_sigmoid_norm": ("dpo_norm", {}),
    "trl_hinge": ("hinge", {}),
    "simpo": ("simpo", {}),
    "kto": ("kto", {}),
}
RENAMED = {"epsilon": "label_smoothing", "tau": "beta", "loss_type": "loss_form"}


def tensor(value, requires_grad=False):
    return torch.tensor(value, dtype=torch.float64, requires_grad=requires_grad)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, tensor(expected), atol=1e-6, rtol=0)


def loss_for(case):
    name, extra = LOSS_OF_FAMILY[case["family"]]
    hyperparameters = {RENAMED.get(key, key): value for key, value in case["hyperparameters"].items()}
    if name != "simpo":
        hyperparameters.pop("loss_form", None)  # in the other families the type is the loss itself
    if case["family"] in ("trl_sigmoid", "trl_ipo", "trl_sigmoid_norm", "trl_hinge", "dpo_sigmoid_ls"):
        hyperparameters.pop("label_smoothing", None)  # TRL 1.16 and Liger take it and ignore it here
    return losses.get(name, **hyperparameters, **extra)


def cases(*levels, unpaired=False):
    chosen = [c for c in CASES if c["level"] in levels and (c["family"] == "kto") == unpaired]
    return pytest.mark.parametrize("case", chosen, ids=[c["id"] for c in chosen])


def test_every_case_is_covered():
    assert len(CASES) == 42
    assert {case["family"] for case in CASES} == set(LOSS_OF_FAMILY)
    assert {case["level"] for case in CASES} == {"sequence", "avg_logp_per_token", "token"}


@cases("sequence")
def test_sequence_vectors(case):
    given, expected = case["inputs"], case["outputs"]
    chosen = tensor(given["policy_chosen_logps"], requires_grad=True)
    rejected = tensor(given["policy_rejected_logps"], requires_grad=True)
    loss = loss_for(case)
    tensors = {
        "chosen_logps": chosen,
        "rejected_logps": rejected,
        "ref_chosen_logps": tensor(given["ref_chosen_logps"]),
        "ref_rejected_logps": tensor(given["ref_rejected_logps"]),
        "chosen_lens": torch.ones(len(chosen)),
        "rejected_lens": torch.ones(len(chosen)),
    }
    out = loss(**{name: tensors[name] for name in loss.inputs})
    out.losses.mean().backward()
    if expected["per_example_loss"] is not None:  # some origins return the mean only
        assert_close(out.losses, expected["per_example_loss"])
    assert_close(out.losses.mean(), expected["mean_loss"])
    assert_close(chosen.grad, expected["grad_policy_chosen"])
    assert_close(rejected.grad, expected["grad_policy_rejected"])
    if "chosen_rewards" in expected:
        assert_close(out.chosen_rewards, expected["chosen_rewards"])
        assert_close(out.rejected_rewards, expected["rejected_rewards"])


@cases("avg_logp_per_token")
def test_mean_logp_vectors(case):
    # These start from means; with means × length given as the sums, d/dmean = length × d/dsum.
    given, expected = case["inputs"], case["outputs"]
    lens = {"chosen": torch.tensor([5, 7, 3]), "rejected": torch.tensor([4, 9, 6])}
    means = {side: tensor(given[f"policy_{side}_avg_logps"], requires_grad=True) for side in lens}
    out = loss_for(case)(
        **{f"{side}_logps": means[side] * lens[side] for side in lens},
        **{f"{side}_lens": lens[side] for side in lens},
    )
    out.losses.mean().backward()
    if expected["per_example_loss"] is not None:  # some origins return the mean only
        assert_close(out.losses, expected["per_example_loss"])
    assert_close(out.losses.mean(), expected["mean_loss"])
    for side in lens:
        assert_close(means[side].grad, expected[f"grad_policy_{side}"])
    assert_close(out.chosen_rewards, expected["chosen_rewards"])
    assert_close(out.rejected_rewards, expected["rejected_rewards"])


@cases("token")
def test_token_vectors(case):
    given, expected = case["inputs"], case["outputs"]
    sides = ("chosen", "rejected")
    mask = {side: tensor(given[f"{side}_mask"]) for side in sides}
    tokens = {side: tensor(given[f"policy_{side}_token_logps"], requires_grad=True) for side in sides}
    tensors = {}
    for side in sides:
        tensors[f"{side}_logps"] = (tokens[side] * mask[side]).sum(1)
        tensors[f"ref_{side}_logps"] = (tensor(given[f"ref_{side}_token_logps"]) * mask[side]).sum(1)
        tensors[f"{side}_lens"] = mask[side].sum(1)
    loss = loss_for(case)
    out = loss(**{name: tensors[name] for name in loss.inputs})
    out.losses.mean().backward()
    assert_close(out.losses.mean(), expected["mean_loss"])
    if expected["per_example_loss"] is not None:
        assert_close(out.losses, expected["per_example_loss"])
    for side in sides:
        assert_close(tokens[side].grad * mask[side], expected[f"grad_policy_{side}_tokens"])
    if case["family"] == "ipo_avg":
        # HALOs reports the averaged log-ratio without β; ours is β × the sum, as in TRL.
        for side in sides:
            reward = getattr(out, f"{side}_rewards") / loss.hyperparameters["beta"] / tensors[f"{side}_lens"]
            assert_close(reward, expected[f"{side}_rewards"])
    elif "chosen_rewards" in expected:
        assert_close(out.chosen_rewards, expected["chosen_rewards"])
        assert_close(out.rejected_rewards, expected["rejected_rewards"])
    if "metrics" in expected:
        margins = out.chosen_rewards - out.rejected_rewards
        for name, value in (
            ("chosen", out.chosen_rewards.mean()),
            ("rejected", out.rejected_rewards.mean()),
            ("margins", margins.mean()),
            ("accuracies", (margins > 0).double().mean()),
        ):
            assert_close(value, expected["metrics"][f"rewards/{name}"])


@cases("token", "sequence", unpaired=True)
def test_kto_vectors(case):
    given, expected = case["inputs"], case["outputs"]
    mask = tensor(given["mask"])
    tokens = tensor(given["policy_token_logps"], requires_grad=True)
    kl_mask = tensor(given["kl_mask"])
    mismatched = tensor(given["kl_policy_token_logps"]) - tensor(given["kl_ref_token_logps"])
    z_ref = (mismatched * kl_mask).sum(1).mean().clamp(min=0)
    assert_close(z_ref, expected.get("z_ref", given.get("kl")))
    desirable = torch.tensor(given["labels"])
    logps = (tokens * mask).sum(1)
    logps.retain_grad()
    ref_logps = (tensor(given["ref_token_logps"]) * mask).sum(1)
    loss = loss_for(case)
    out = loss(logps=logps, ref_logps=ref_logps, desirable=desirable, z_ref=z_ref)
    out.losses.mean().backward()
    assert_close(out.losses.mean(), expected["mean_loss"])
    if "grad_policy_seq_logps" in expected:
        assert_close(logps.grad, expected["grad_policy_seq_logps"])
    else:
        assert_close(tokens.grad * mask, expected["grad_policy_tokens"])
    if "chosen_logratios" in expected:
        beta = loss.hyperparameters["beta"]
        assert_close(out.rewards[desirable] / beta, expected["chosen_logratios"])
        assert_close(out.rewards[~desirable] / beta, expected["rejected_logratios"])
        by_class = torch.cat([out.losses[desirable], out.losses[~desirable]])
        assert_close(by_class, expected["per_example_loss_desirable_then_undesirable"])
