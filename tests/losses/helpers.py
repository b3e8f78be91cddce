"""Inputs for the loss tests: a batch of every tensor a loss may read, and every loss in all its forms."""

import torch

from trl_ext import losses

DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
WITH_DIVERGENCE = ("dpo", "dpo_norm", "hinge", "ipo", "exo", "robust", "discopop")
# Hyperparameters beside the defaults that take another branch of the code.
FORMS = [
    *((name, {"f_divergence_type": kind}) for name in WITH_DIVERGENCE for kind in DIVERGENCES[1:]),
    ("dpo", {"label_smoothing": 0.2}),
    ("ipo", {"average": False}),
    ("simpo", {"loss_form": "hinge"}),
    ("simpo", {"label_smoothing": 0.1}),
    ("cpo", {"loss_form": "hinge"}),
    ("cpo", {"loss_form": "ipo"}),
    ("alphapo", {"alpha": -0.25}),
    ("alphapo", {"alpha": 0.0}),
    ("aot", {"label_smoothing": 0.1}),
    ("alpha_dpo", {"label_smoothing": 0.1}),
    ("kto", {"desirable_weight": 1.5}),
    ("rpo", {"distance": "forward_kl"}),
    ("rpo", {"distance": "squared"}),
]
POLICY = ("chosen_logps", "rejected_logps", "gold_logps", "logps")
ALL_FORMS = [(name, {}) for name in losses.available()] + FORMS


def form_id(form):
    name, hyperparameters = form
    return name + "".join(f"-{value}" for value in hyperparameters.values())


def batch(size=6, seed=0, dtype=torch.float64, policy_is_reference=False):
    """Log-probs summed over 3 to 12 tokens, log-ratios of a few nats; the policy's require gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(size, generator=generator, dtype=torch.float64)

    def lens():
        return torch.randint(3, 13, (size,), generator=generator)

    tensors = {"chosen_lens": lens(), "rejected_lens": lens()}
    tensors["ref_chosen_logps"] = -1.5 * tensors["chosen_lens"] + normal()
    tensors["ref_rejected_logps"] = -1.5 * tensors["rejected_lens"] + normal()
    tensors["ref_logps"] = -10 + 3 * normal()
    step = 0.0 if policy_is_reference else 1.0
    for name in ("chosen_logps", "rejected_logps", "logps"):
        tensors[name] = tensors[f"ref_{name}"] + step * normal()
    tensors["margin"] = normal().abs()
    tensors["gold_lens"] = lens()
    tensors["gold_logps"] = -1.5 * tensors["gold_lens"] + normal()
    tensors["desirable"] = torch.arange(size) % 2 == 0
    tensors["z_ref"] = torch.tensor(0.3 * step, dtype=torch.float64)
    for name in ("chosen_kl", "rejected_kl"):
        tensors[name] = step * normal() ** 2
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    return {k: v.requires_grad_(k in POLICY) for k, v in cast.items()}


def read_by(loss, tensors):
    """The tensors this loss reads."""
    return {name: tensors[name] for name in loss.inputs}


def policy_inputs(loss):
    """Names of the tensors that carry the policy's gradient into this loss."""
    return [name for name in loss.inputs if name in POLICY]
