"""What every loss must do at the edges: policy = reference, empty completions, extreme margins, any dtype."""

import math

import pytest
import torch

from tests.losses.helpers import ALL_FORMS, POLICY, batch, form_id, policy_inputs, read_by
from trl_ext import losses

every_form = pytest.mark.parametrize("form", ALL_FORMS, ids=form_id)
LN2 = math.log(2)

# Written out from the formulas with all log-ratios zero; None: no reference, so it depends on the data. The tests below hold
# for losses that are not listed here, too.
AT_REFERENCE = {
    "alphapo": None,
    "aot": LN2,
    "aot_unpaired": LN2,
    "apo_down": 0.5 + 0.5,
    "apo_zero": 0.5 + 0.5,
    "apo_zero_unpaired": 0.5,
    "bco": LN2 + LN2,
    "bco_pair": LN2 + LN2,
    "bco_unpaired": LN2,
    "cpo": None,
    "discopop": 0.5 * LN2 + 0.5 * 1,
    "dpo": LN2,
    "dpo_norm": LN2,
    "exo": 0.5 * math.log(0.5 / 0.999) + 0.5 * math.log(0.5 / 0.001),
    "hinge": 1.0,
    "ipo": 25.0,
    "kto": 0.5,
    "nca": LN2 + 0.5 * LN2 + 0.5 * LN2,
    "orpo": None,
    "robust": LN2,
    "sft": None,
    "simpo": None,
    "sppo_hard": 5.0**2 + 5.0**2,
}


def test_initial_values_are_the_closed_forms():
    assert {name: losses.get(name).initial_value for name in AT_REFERENCE} == pytest.approx(AT_REFERENCE)
    assert losses.get("ipo", beta=0.5).initial_value == pytest.approx(1.0)
    assert losses.get("sppo_hard", beta=0.5).initial_value == pytest.approx(2.0)
    assert losses.get("exo", label_smoothing=0.25).initial_value == pytest.approx(-0.5 * math.log(4 * 0.25 * 0.75))
    for weights, expected in (((1.2, 1.2), 0.6), ((1.2, 1.0), None), (("auto", "auto"), None)):
        loss = losses.get("kto", desirable_weight=weights[0], undesirable_weight=weights[1])
        assert loss.initial_value == expected


OF_DATA = ("alpha_dpo",)
"""Losses whose value at policy = reference depends on the data, though they read a reference."""


@pytest.mark.parametrize("name", losses.available())
def test_losses_with_a_reference_state_their_initial_value(name):
    info = losses.describe(name)
    assert (losses.get(name).initial_value is not None) == (info.needs_reference and not depends_on_data(info))


def depends_on_data(info):
    """Whether columns or values of the data decide the value at policy = reference."""
    return bool(info.columns) or info.name in OF_DATA


INFOS = [(form, losses.describe(form[0])) for form in ALL_FORMS]
WITH_REFERENCE = [form for form, info in INFOS if info.needs_reference and not depends_on_data(info)]


@pytest.mark.parametrize("form", WITH_REFERENCE, ids=form_id)
def test_policy_equal_to_reference(form):
    name, hyperparameters = form
    loss = losses.get(name, **hyperparameters)
    out = loss(**read_by(loss, batch(policy_is_reference=True)))
    if (expected := loss.initial_value) is None:  # unequal class weights: half of each example's own
        expected = torch.where(batch()["desirable"], 1.5, 1.0) / 2
    torch.testing.assert_close(out.losses, torch.ones_like(out.losses) * expected)
    assert all((reward == 0).all() for reward in out[1:])


STOPPED = ("alpha_dpo", "beta_dpo")
"""Losses that read the policy's log-probs without gradient, too; the tests of their own compare the gradient."""


@every_form
def test_shapes_dtypes_and_detached_rewards(form):
    name, hyperparameters = form
    loss = losses.get(name, **hyperparameters)
    for dtype in (torch.float32, torch.float64):
        out = loss(**read_by(loss, batch(size=5, dtype=dtype)))
        assert type(out) is (losses.PairedOutput if loss.paired else losses.UnpairedOutput)
        assert all(field.shape == (5,) and field.dtype == dtype for field in out)
        assert out.losses.requires_grad and not any(reward.requires_grad for reward in out[1:])


@pytest.mark.parametrize("form", [form for form in ALL_FORMS if form[0] not in STOPPED], ids=form_id)
def test_gradient_is_that_of_the_value(form):
    name, hyperparameters = form
    loss = losses.get(name, **hyperparameters)
    tensors = read_by(loss, batch())
    names = policy_inputs(loss)

    def value(*policy):
        return loss(**(tensors | dict(zip(names, policy, strict=True)))).losses

    assert torch.autograd.gradcheck(value, [tensors[name] for name in names])


@every_form
def test_permuting_examples_permutes_losses(form):
    name, hyperparameters = form
    loss = losses.get(name, **hyperparameters)
    tensors = {k: v.detach() for k, v in read_by(loss, batch()).items()}
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plain = loss(**tensors)
    permuted = loss(**{k: v if v.ndim == 0 else v[order] for k, v in tensors.items()})
    expected = plain.losses if name.startswith("aot") else plain.losses[order]  # of aot the quantiles stay
    torch.testing.assert_close(permuted.losses, expected)
    for before, after in zip(plain[1:], permuted[1:], strict=True):
        torch.testing.assert_close(after, before[order])


@every_form
def test_only_coupled_losses_look_at_other_examples(form):
    name, hyperparameters = form
    loss = losses.get(name, **hyperparameters)
    tensors = read_by(loss, batch())

    def values(some):
        state = loss.next_state(loss.initial_state, **some) if loss.coupled else None
        return loss(**some, state=state).losses.detach()

    parts = [
        values({k: v if v.ndim == 0 else v[half] for k, v in tensors.items()}) for half in (slice(0, 2), slice(2, 6))
    ]
    is_separable = torch.allclose(torch.cat(parts), values(tensors))
    assert is_separable is not loss.coupled


@pytest.mark.parametrize("name", [n for n in losses.available() if losses.describe(n).paired])
@pytest.mark.parametrize("log_ratio", [-1.0, 0.0, 1.0])
def test_gradient_sign_on_pairs(name, log_ratio):
    """The loss falls as the chosen log-prob rises and grows as the rejected one does, with two exceptions."""
    loss = losses.get(name)
    tensors = {
        "ref_chosen_logps": torch.tensor([-9.0]),
        "ref_rejected_logps": torch.tensor([-12.0]),
        "chosen_lens": torch.tensor([6]),
        "rejected_lens": torch.tensor([8]),
        "chosen_kl": torch.tensor([0.3]),
        "rejected_kl": torch.tensor([0.7]),
        "margin": torch.tensor([50.0]),
        "gold_lens": torch.tensor([4]),
        "gold_logps": torch.tensor([-8.0], requires_grad=True),
        "chosen_logps": torch.tensor([-9.0 + log_ratio / 2], requires_grad=True),
        "rejected_logps": torch.tensor([-12.0 - log_ratio / 2], requires_grad=True),
    }
    loss(**read_by(loss, tensors)).losses.sum().backward()
    signs = {key: tensors[key].grad.sign().item() for key in policy_inputs(loss)}
    expected = {"chosen_logps": -1, "rejected_logps": +1, "gold_logps": -1}
    if name == "discopop" and log_ratio <= 0:
        expected = {"chosen_logps": +1, "rejected_logps": -1}  # up to its hump: see the docstring
    if name == "apo_down":
        # Down with force σ'(βΔ_w), up with σ'(βh): balanced at 0; elsewhere |h| > |Δ_w| here, so down wins.
        expected["chosen_logps"] = 0 if log_ratio == 0 else +1
    assert signs == {key: expected[key] for key in signs}


@pytest.mark.parametrize("name", [n for n in losses.available() if not losses.describe(n).paired])
@pytest.mark.parametrize("log_ratio", [-1.0, 0.0, 1.0])
def test_gradient_sign_on_single_completions(name, log_ratio):
    loss = losses.get(name)
    logps = torch.full((2,), -9.0 + log_ratio, requires_grad=True)
    tensors = {"logps": logps, "ref_logps": torch.full((2,), -9.0), "z_ref": torch.tensor(0.2)}
    loss(**read_by(loss, tensors | {"desirable": torch.tensor([True, False])})).losses.sum().backward()
    assert logps.grad.sign().tolist() == [-1, +1]


@pytest.mark.parametrize(
    "form",
    [
        ("ipo", {}),
        ("dpo_norm", {}),
        ("simpo", {}),
        ("orpo", {}),
        ("alphapo", {}),
        ("sft", {}),
        ("simper", {}),
        ("cpo", {"loss_form": "ipo"}),
        ("tpo_l", {}),
    ],
    ids=form_id,
)
def test_length_normalised_losses_see_repeated_tokens_once(form):
    loss = losses.get(form[0], **form[1])
    tensors = read_by(loss, batch())
    torch.testing.assert_close(loss(**{k: 2 * v for k, v in tensors.items()}).losses, loss(**tensors).losses)


@pytest.mark.parametrize("form", [f for f in ALL_FORMS if "chosen_lens" in losses.describe(f[0]).inputs], ids=form_id)
def test_lengths_are_those_given_even_when_empty(form):
    # No token: the log-probs are 0 and so is the mean. Inferring lengths from non-zero values would be 0/0.
    loss = losses.get(form[0], **form[1])
    tensors = read_by(loss, batch(policy_is_reference=True))
    tensors = {k: (0 * v).detach().requires_grad_(v.requires_grad) for k, v in tensors.items()}
    out = loss(**tensors)
    out.losses.sum().backward()
    assert out.losses.isfinite().all()
    assert all(tensors[name].grad.isfinite().all() for name in policy_inputs(loss))


def extreme_batch(dtype=torch.float32):
    """Every combination of chosen and rejected log-ratio in {−1000, −100, 0, 100, 1000}, four tokens each."""
    grid = torch.tensor([-1e3, -1e2, 0.0, 1e2, 1e3], dtype=dtype)
    chosen, rejected = (axis.reshape(-1) for axis in torch.meshgrid(grid, grid, indexing="ij"))
    tensors = {
        "ref_chosen_logps": torch.full_like(chosen, -1100),
        "ref_rejected_logps": torch.full_like(chosen, -1100),
        "ref_logps": torch.full_like(chosen, -1100),
        "chosen_lens": torch.full_like(chosen, 4),
        "rejected_lens": torch.full_like(chosen, 4),
        "chosen_kl": chosen.abs(),
        "rejected_kl": rejected.abs(),
        "margin": torch.full_like(chosen, 2),
        "gold_lens": torch.full_like(chosen, 4),
        "gold_logps": rejected - 1100,
        "desirable": torch.arange(len(chosen)) % 2 == 0,
        "z_ref": torch.tensor(1e3, dtype=dtype),
        "chosen_logps": chosen - 1100,
        "rejected_logps": rejected - 1100,
        "logps": chosen - 1100,
    }
    return {k: v.requires_grad_(k in POLICY) for k, v in tensors.items()}


@every_form
def test_extreme_margins_stay_finite_in_float32(form):
    name, hyperparameters = form
    loss = losses.get(name, **hyperparameters)
    tensors = read_by(loss, extreme_batch())
    out = loss(**tensors)
    out.losses.sum().backward()
    assert all(field.isfinite().all() for field in out)
    for key in policy_inputs(loss):
        assert tensors[key].grad.isfinite().all(), key


# These grow exponentially, and their exponents are cut earlier in float32 than in float64.
CUT = ("forward_kl", "alpha_divergence")
UNCUT = [(n, h) for n, h in ALL_FORMS if n != "alphapo" and h.get("f_divergence_type") not in CUT]


@pytest.mark.parametrize("form", UNCUT, ids=form_id)
def test_extreme_margins_lose_no_value_to_float32(form):
    name, hyperparameters = form
    loss = losses.get(name, **hyperparameters)
    narrow = loss(**read_by(loss, extreme_batch())).losses
    wide = loss(**read_by(loss, extreme_batch(torch.float64))).losses
    torch.testing.assert_close(narrow, wide, check_dtype=False, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", [0.05, 1.0, 5.0])
def test_discopop_far_from_the_reference(tau):
    # Lost pairs: the exponential part is exp(−x)·σ(x/τ), ~ exp(x(1/τ − 1)): gone for τ < 1, 1 at τ = 1.
    loss = losses.get("discopop", beta=1.0, discopop_tau=tau)
    h = torch.tensor([-60.0, -300.0, 60.0, 300.0], dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros_like(h)
    value = loss(chosen_logps=h, rejected_logps=zeros, ref_chosen_logps=zeros, ref_rejected_logps=zeros).losses
    value.sum().backward()
    exponential = {0.05: 0.0, 1.0: 1.0, 5.0: math.exp(48.0)}[tau]
    modulation = 1 / (1 + math.exp(-60 / tau))
    assert value[0].item() == pytest.approx(60.0 * modulation + exponential * (1 if tau < 5 else modulation), rel=1e-9)
    assert value[2:].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert h.grad.isfinite().all()


@pytest.mark.parametrize("log_prob", [0.0, -0.0, -1e-9, -1e-3, -40.0, -1e3])
def test_orpo_near_certainty(log_prob):
    loss = losses.get("orpo", beta=1.0)
    chosen = torch.tensor([log_prob], requires_grad=True)
    rejected = torch.tensor([-2.0], requires_grad=True)
    one = torch.tensor([1])
    out = loss(chosen_logps=chosen, rejected_logps=rejected, chosen_lens=one, rejected_lens=one)
    out.losses.backward()
    assert out.losses.isfinite() and chosen.grad.isfinite() and rejected.grad.isfinite()
    assert chosen.grad < 0 < rejected.grad
    if log_prob == -1e-3:
        odds = (math.exp(-1e-3) / (1 - math.exp(-1e-3))) / (math.exp(-2) / (1 - math.exp(-2)))
        assert out.losses.item() == pytest.approx(1e-3 + math.log1p(1 / odds), rel=1e-4)


def test_alphapo_approaches_simpo():
    tensors = batch()
    simpo = losses.get("simpo", beta=2.0, gamma=0.4)
    expected = simpo(**read_by(simpo, tensors)).losses
    for alpha in (0.0, 1e-7, -1e-7):
        loss = losses.get("alphapo", alpha=alpha, beta=2.0, gamma=0.4)
        torch.testing.assert_close(loss(**read_by(loss, tensors)).losses, expected, atol=1e-6, rtol=0)


def test_alpha_divergence_joins_its_neighbours():
    tensors = batch()

    def values(**hyperparameters):
        loss = losses.get("dpo", **hyperparameters)
        return loss(**read_by(loss, tensors)).losses

    def alpha(coef):
        return values(f_divergence_type="alpha_divergence", f_alpha_divergence_coef=coef)

    torch.testing.assert_close(alpha(0.0), values(f_divergence_type="forward_kl"))
    torch.testing.assert_close(alpha(1.0), values())
    torch.testing.assert_close(alpha(1 + 1e-5), values(), atol=1e-4, rtol=0)


def test_kto_without_a_baseline_is_apo_zero_unpaired():
    tensors = batch() | {"z_ref": torch.tensor(0.0)}
    kto, apo = losses.get("kto"), losses.get("apo_zero_unpaired")
    torch.testing.assert_close(kto(**read_by(kto, tensors)).losses, apo(**read_by(apo, tensors)).losses)


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired", "bco_unpaired"])
def test_unresolved_auto_weight_is_an_error(name):
    loss = losses.get(name, undesirable_weight="auto")
    with pytest.raises(ValueError, match="undesirable_weight is 'auto', which only the trainer can replace"):
        loss(**read_by(loss, batch()))
    resolved = loss.replace(undesirable_weight=1.5)
    assert resolved(**read_by(resolved, batch())).losses.isfinite().all()
