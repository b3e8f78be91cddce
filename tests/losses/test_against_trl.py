"""The same numbers as TRL 1.16's own lines: its loss methods run here on given per-token log-probs.

The methods are called unbound on a stub that has the few attributes they read and a "model" that returns
log-probs instead of computing them. Nothing of a loss is restated: a change in TRL shows up here.
"""

from collections import defaultdict
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch

from tests.losses.helpers import WITH_DIVERGENCE
from trl_ext import losses

trl_dpo = pytest.importorskip("trl.trainer.dpo_trainer")

SIZE, PROMPT, COMPLETION = 6, 3, 9  # examples; tokens of the prompt; most tokens of a completion
TRL_TYPES = ["sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"]
TRL_TYPES += ["aot_unpaired", "apo_zero", "apo_down", "discopop", "sigmoid_norm", "sft"]
ACCELERATOR = SimpleNamespace(
    device=torch.device("cpu"),
    gather=lambda x: x,
    gather_for_metrics=lambda x: x,
)


class Batch:
    """`count` completions of random lengths after a prompt, with the policy's and reference's log-probs."""

    def __init__(self, count, seed, dtype=torch.float64, equal_lens=False):
        generator = torch.Generator().manual_seed(seed)
        length = PROMPT + COMPLETION
        self.lens = torch.full((count,), 5)
        if not equal_lens:
            self.lens = torch.randint(1, COMPLETION + 1, (count,), generator=generator)
        position = torch.arange(length)
        self.completion_mask = ((position >= PROMPT) & (position < PROMPT + self.lens[:, None])).long()
        self.mask = self.completion_mask[:, 1:]
        ids = torch.randint(5, 50, (count, length), generator=generator)
        self.inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "completion_mask": self.completion_mask,
        }
        noise = torch.randn(2, count, length - 1, generator=generator, dtype=torch.float64).to(dtype)
        self.tokens = (-1.5 + 0.4 * noise[0]).mul(self.mask).requires_grad_()
        self.ref_logps = ((-1.5 + 0.4 * noise[1]) * self.mask).sum(1)

    @property
    def logps(self):
        return (self.tokens * self.mask).sum(1)

    def fused_output(self):
        nothing = torch.zeros(self.tokens.shape)
        # The fused head gives zero, and no gradient, where the label is ignored; the trainers rely on it.
        return SimpleNamespace(
            log_probs=self.tokens * self.mask,
            entropy=nothing,
            mean_logits=nothing,
            is_top1=nothing.bool(),
            aux_loss=None,
        )


def trainer_stub(**attributes):
    return SimpleNamespace(
        accelerator=ACCELERATOR,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **attributes,
    )


def trl_dpo_loss(batch, loss_types, weights=None, beta=0.1, label_smoothing=0.0, divergence="reverse_kl", coef=0.5):
    """Loss, gradient to the tokens and reward metrics of `DPOTrainer._compute_loss`."""
    stub = trainer_stub(
        beta=beta,
        label_smoothing=label_smoothing,
        f_divergence_type=divergence,
        f_alpha_divergence_coef=coef,
        loss_types=loss_types,
        loss_weights=weights or [1.0] * len(loss_types),
        ld_alpha=None,
        use_weighting=False,
        args=SimpleNamespace(discopop_tau=0.05),
    )
    ref_chosen, ref_rejected = batch.ref_logps.chunk(2)
    inputs = batch.inputs | {"ref_chosen_logps": ref_chosen, "ref_rejected_logps": ref_rejected}
    value = trl_dpo.DPOTrainer._compute_loss(stub, lambda **_: batch.fused_output(), inputs, return_outputs=False)
    (gradient,) = torch.autograd.grad(value, batch.tokens)
    metrics = {k: v[0] for k, v in stub._metrics["train"].items() if k.startswith("rewards/")}
    return value.detach(), gradient, metrics


def our_loss(batch, name, **hyperparameters):
    loss = losses.get(name, **hyperparameters)
    tensors = {}
    for key, value in (("logps", batch.logps), ("lens", batch.lens)):
        tensors[f"chosen_{key}"], tensors[f"rejected_{key}"] = value.chunk(2)
    tensors["ref_chosen_logps"], tensors["ref_rejected_logps"] = batch.ref_logps.chunk(2)
    out = loss(**{key: tensors[key] for key in loss.inputs})
    value = out.losses.mean()
    (gradient,) = torch.autograd.grad(value, batch.tokens)
    metrics = {
        "rewards/chosen": out.chosen_rewards.mean().item(),
        "rewards/rejected": out.rejected_rewards.mean().item(),
        "rewards/accuracies": (out.chosen_rewards > out.rejected_rewards).double().mean().item(),
        "rewards/margins": (out.chosen_rewards - out.rejected_rewards).mean().item(),
    }
    return value.detach(), gradient, metrics


def assert_same(ours, theirs, rewards=True, **tolerance):
    tolerance = tolerance or {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(ours[0], theirs[0], **tolerance)
    torch.testing.assert_close(ours[1], theirs[1], **tolerance)
    assert theirs[1].abs().sum() > 0
    if rewards:
        assert ours[2] == pytest.approx(theirs[2], abs=1e-6)


def test_every_type_of_trl_has_a_loss_here():
    assert {losses.canonical(kind) for kind in TRL_TYPES} < set(losses.available())


def test_defaults_are_trls_except_where_a_paper_says_otherwise():
    from trl import DPOConfig, KTOConfig

    differing = {}
    for name in {losses.canonical(kind) for kind in TRL_TYPES} | {"kto", "apo_zero_unpaired"}:
        info = losses.describe(name)
        trl_defaults = {f.name: f.default for f in fields(DPOConfig if info.paired else KTOConfig)}
        for key, default in info.hyperparameters.items():
            if default != trl_defaults.get(key, default):
                differing[name, key] = default
    assert differing == {
        ("dpo_norm", "beta"): 5.0,  # Tülu 3; per nat per token, where 0.1 hardly pulls
        ("exo", "label_smoothing"): 1e-3,  # TRL refuses its own default of 0
        ("robust", "label_smoothing"): 0.1,  # at TRL's 0 the loss is plain DPO
    }


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("kind", [kind for kind in TRL_TYPES if kind != "sft"])
def test_dpo_types(kind, beta):
    batch = Batch(2 * SIZE, seed=1)
    smoothing = {"label_smoothing": 0.1} if kind in ("robust", "exo_pair", "aot", "aot_unpaired") else {}
    assert_same(our_loss(batch, kind, beta=beta, **smoothing), trl_dpo_loss(batch, [kind], beta=beta, **smoothing))


@pytest.mark.parametrize("name", WITH_DIVERGENCE)
@pytest.mark.parametrize(
    "divergence, coef",
    [("forward_kl", 0.5), ("js_divergence", 0.5)] + [("alpha_divergence", c) for c in (0.0, 0.5, 1.0, 2.0)],
)
def test_f_divergences(name, divergence, coef):
    # TRL's alpha_divergence knows 16- and 32-bit types only, so that one is compared in float32.
    is_alpha = divergence == "alpha_divergence"
    batch = Batch(2 * SIZE, seed=2, dtype=torch.float32 if is_alpha else torch.float64)
    smoothing = {"label_smoothing": 0.1} if name in ("robust", "exo") else {}
    kind = next(kind for kind in TRL_TYPES if losses.canonical(kind) == name)
    theirs = trl_dpo_loss(batch, [kind], divergence=divergence, coef=coef, **smoothing)
    f_alpha = {"f_alpha_divergence_coef": coef} if is_alpha else {}
    ours = our_loss(batch, name, beta=0.1, f_divergence_type=divergence, **smoothing, **f_alpha)
    assert_same(ours, theirs, **({"atol": 2e-6, "rtol": 2e-6} if is_alpha else {}))


def test_alpha_divergence_in_float64_agrees_with_float32():
    values = [
        our_loss(Batch(2 * SIZE, 2, dtype), "dpo", f_divergence_type="alpha_divergence")[0].double()
        for dtype in (torch.float32, torch.float64)
    ]
    torch.testing.assert_close(*values, atol=1e-6, rtol=0)


def test_label_smoothing_of_dpo_is_cdpo_where_trl_ignores_it():
    batch = Batch(2 * SIZE, seed=3)
    plain, smoothed = (trl_dpo_loss(batch, ["sigmoid"], label_smoothing=e)[0] for e in (0.0, 0.3))
    assert plain == smoothed
    flipped = trl_dpo_loss(batch, ["sigmoid"], beta=-0.1)[0]  # −log σ(−βh): TRL's loss with the labels swapped
    torch.testing.assert_close(our_loss(batch, "dpo", label_smoothing=0.3)[0], 0.7 * plain + 0.3 * flipped)


def test_sft_equals_trl_at_equal_lengths():
    batch = Batch(2 * SIZE, seed=4, equal_lens=True)
    assert_same(our_loss(batch, "sft"), trl_dpo_loss(batch, ["sft"]), rewards=False)


def test_sft_averages_examples_where_trl_averages_tokens():
    batch = Batch(2 * SIZE, seed=4)
    logps, lens = batch.logps.detach()[:SIZE], batch.lens[:SIZE]
    assert len(set(lens.tolist())) > 1
    torch.testing.assert_close(trl_dpo_loss(batch, ["sft"])[0], -logps.sum() / lens.sum())
    torch.testing.assert_close(our_loss(batch, "sft")[0], -(logps / lens).mean())


def test_mix_equals_trls_weighted_losses():
    # MPO (arXiv:2411.10442): 0.8 sigmoid + 0.2 bco_pair + 1.0 sft.
    batch = Batch(2 * SIZE, seed=5, equal_lens=True)
    weights = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
    assert_same(our_loss(batch, weights, beta=0.1), trl_dpo_loss(batch, list(weights), weights=list(weights.values())))


@pytest.mark.parametrize("kind", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.33, 0.7)])
@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_kto_types(kind, weights, shift):
    """`shift` moves the mismatched log-ratios above or below zero, where the baseline is clamped."""
    from trl.trainer.kto_trainer import KTOTrainer

    batch, mismatched = Batch(SIZE, seed=6), Batch(SIZE, seed=7)
    labels = torch.tensor([True, False, True, True, False, True])
    stub = trainer_stub(
        beta=0.1,
        loss_type=kind,
        calculate_KL=kind == "kto",
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    stub._compute_kl_logps = lambda model, inputs: KTOTrainer._compute_kl_logps(stub, model, inputs)
    inputs = batch.inputs | {f"KL_{name}": value for name, value in mismatched.inputs.items()}
    ref_kl_logps = mismatched.logps.detach() - shift
    inputs |= {"label": labels, "ref_logps": batch.ref_logps, "ref_KL_logps": ref_kl_logps}

    def model(input_ids, **_):
        return (batch if input_ids is inputs["input_ids"] else mismatched).fused_output()

    theirs = KTOTrainer._compute_loss(stub, model, inputs, return_outputs=False)
    (their_gradient,) = torch.autograd.grad(theirs, batch.tokens)
    metrics = stub._metrics["train"]
    loss = losses.get(kind, beta=0.1, desirable_weight=weights[0], undesirable_weight=weights[1])
    tensors = {
        "logps": batch.logps,
        "ref_logps": batch.ref_logps,
        "desirable": labels,
        "z_ref": (mismatched.logps.detach() - ref_kl_logps).mean().clamp(min=0),
    }
    if kind == "kto":
        assert tensors["z_ref"].item() == pytest.approx(metrics["kl"][0]) == max(shift, 0)
    out = loss(**{name: tensors[name] for name in loss.inputs})
    (gradient,) = torch.autograd.grad(out.losses.mean(), batch.tokens)
    torch.testing.assert_close(out.losses.mean(), theirs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, their_gradient, atol=1e-6, rtol=1e-6)
    assert out.rewards[labels].mean().item() == pytest.approx(metrics["rewards/chosen"][0])
    assert out.rewards[~labels].mean().item() == pytest.approx(metrics["rewards/rejected"][0])


@pytest.fixture(scope="module")
def experimental():
    """TRL's experimental CPO and ORPO trainers; they warn about being experimental on import."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.cpo import CPOTrainer
        from trl.experimental.orpo import ORPOTrainer
    return SimpleNamespace(cpo=CPOTrainer, orpo=ORPOTrainer)


CPO_FORMS = [
    # (TRL's loss_type, alpha, our loss, our hyperparameters beside beta)
    ("sigmoid", 0.0, "cpo", {"cpo_alpha": 0.0}),
    ("hinge", 0.0, "cpo", {"cpo_alpha": 0.0, "loss_form": "hinge"}),
    ("ipo", 0.0, "cpo", {"cpo_alpha": 0.0, "loss_form": "ipo"}),
    ("simpo", 0.0, "simpo", {"gamma": 0.5}),
    ("simpo", 0.25, "alphapo", {"gamma": 0.5, "alpha": 0.25}),
    ("simpo", -0.5, "alphapo", {"gamma": 0.5, "alpha": -0.5}),
    ("sigmoid", 0.0, "cpo", {"cpo_alpha": 0.0, "label_smoothing": 0.2}),
    ("simpo", 0.0, "simpo", {"gamma": 0.5, "label_smoothing": 0.2}),
    ("simpo", 0.25, "alphapo", {"gamma": 0.5, "alpha": 0.25, "label_smoothing": 0.2}),
]


def reference_free(batch, name, **hyperparameters):
    loss = losses.get(name, **hyperparameters)
    logps, lens = batch.logps, batch.lens
    out = loss(
        chosen_logps=logps[:SIZE],
        rejected_logps=logps[SIZE:],
        chosen_lens=lens[:SIZE],
        rejected_lens=lens[SIZE:],
    )
    (gradient,) = torch.autograd.grad(out.losses.mean(), batch.tokens)
    return out, gradient


@pytest.mark.parametrize("kind, alpha, name, hyperparameters", CPO_FORMS)
def test_cpo_types(experimental, kind, alpha, name, hyperparameters):
    label_smoothing = hyperparameters.get("label_smoothing", 0.0)
    batch = Batch(2 * SIZE, seed=8)
    stub = SimpleNamespace(
        alpha=alpha,
        beta=0.7,
        loss_type=kind,
        simpo_gamma=0.5,
        label_smoothing=label_smoothing,
        accelerator=ACCELERATOR,
    )
    averages = kind in ("ipo", "simpo")  # CPOTrainer.concatenated_forward hands these two the mean log-probs
    theirs = batch.logps / batch.lens if averages else batch.logps
    value, chosen_rewards, rejected_rewards = experimental.cpo.cpo_loss(stub, *theirs.chunk(2))
    (their_gradient,) = torch.autograd.grad(value.mean(), batch.tokens)
    out, gradient = reference_free(batch, name, beta=0.7, **hyperparameters)
    torch.testing.assert_close(out.losses, value, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, their_gradient, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(out.chosen_rewards, chosen_rewards, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(out.rejected_rewards, rejected_rewards, atol=1e-6, rtol=1e-6)


def test_cpo_adds_the_likelihood_of_the_chosen():
    batch = Batch(2 * SIZE, seed=8)
    preference, _ = reference_free(batch, "cpo", cpo_alpha=0.0)
    both, _ = reference_free(batch, "cpo", cpo_alpha=0.3)
    likelihood = batch.logps[:SIZE] / batch.lens[:SIZE]
    torch.testing.assert_close(both.losses, preference.losses - 0.3 * likelihood)


def test_orpo(experimental):
    batch = Batch(2 * SIZE, seed=9)
    stub = SimpleNamespace(beta=0.3, accelerator=ACCELERATOR)
    means = batch.logps / batch.lens
    ratio, chosen_rewards, rejected_rewards, _, _ = experimental.orpo.odds_ratio_loss(stub, *means.chunk(2))
    # ORPOTrainer: loss = likelihood − mean of this output; the likelihood here is the completion's alone.
    theirs = -means[:SIZE] - ratio
    (their_gradient,) = torch.autograd.grad(theirs.mean(), batch.tokens)
    out, gradient = reference_free(batch, "orpo", beta=0.3)
    # TRL computes this one in float32 whatever it is given.
    torch.testing.assert_close(out.losses, theirs, atol=1e-6, rtol=1e-6, check_dtype=False)
    torch.testing.assert_close(gradient, their_gradient, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(out.chosen_rewards, chosen_rewards, atol=1e-6, rtol=1e-6, check_dtype=False)
    torch.testing.assert_close(out.rejected_rewards, rejected_rewards, atol=1e-6, rtol=1e-6, check_dtype=False)
