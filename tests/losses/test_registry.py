"""Finding, describing and making losses: names, messages, mixes, and that asking costs no import of torch."""

import copy
import inspect
import pickle
import re
import subprocess
import sys
import textwrap
from typing import get_args

import pytest
import torch

from tests.losses.helpers import batch, read_by
from trl_ext import losses
from trl_ext.losses._hyperparameters import KINDS

NAMED_HERE = (
    "alphapo aot aot_unpaired apo_down apo_zero apo_zero_unpaired bco bco_pair bco_unpaired cpo discopop dpo dpo_norm exo hinge "
    "ipo kto nca orpo robust sft simpo sppo_hard"
).split()
"""Losses that recipes may name. A new loss need not be added."""
ALIASES = {
    "sigmoid": "dpo",
    "sigmoid_norm": "dpo_norm",
    "exo_pair": "exo",
    "nca_pair": "nca",
    "slic": "hinge",
    "aot_pair": "aot_unpaired",
    "tpo-l": "tpo_l",
}


def test_names_and_aliases():
    assert set(losses.available()) >= {*NAMED_HERE} and list(losses.available()) == sorted(losses.available())
    assert {name: losses.canonical(name) for name in losses.available()} == {n: n for n in losses.available()}
    assert {alias: losses.canonical(alias) for alias in ALIASES} == ALIASES
    assert {a: n for n in losses.available() for a in losses.describe(n).aliases} == ALIASES
    assert losses.get("sigmoid").name == "dpo"


@pytest.mark.parametrize("name", losses.available())
def test_declaration_is_the_signature(name):
    """What is read from the syntax tree equals what Python itself says about the imported function."""
    loss, info = losses.get(name), losses.describe(name)
    function = getattr(sys.modules[f"trl_ext.losses.{name}"], name)
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(info.inputs) == [name for name in positional if name not in info.state]
    assert loss.initial_state == info.state
    keywords = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert info.hyperparameters == {key: p.default for key, p in keywords.items()} == loss.hyperparameters
    for key, parameter in keywords.items():
        if len(get_args(parameter.annotation)) == 2 and get_args(parameter.annotation)[1] in KINDS.values():
            assert info.kinds[key] is get_args(parameter.annotation)[1]
    assert info.check(info.hyperparameters) == []
    assert loss.needs_reference == any(i.startswith("ref_") or i == "z_ref" for i in loss.inputs)
    assert loss.paired == ("chosen_logps" in loss.inputs) != ("logps" in loss.inputs)
    assert loss.coupled == (name in ("alpha_dpo", "aot", "aot_unpaired", "beta_dpo"))
    assert info.summary and loss.formula and "\n" not in loss.formula
    assert loss.paper.startswith("arXiv:") and loss.reduction
    assert bool(loss.beta_unit) == ("beta" in loss.hyperparameters)


def test_reference_free_losses():
    free = [name for name in NAMED_HERE if not losses.describe(name).needs_reference]
    assert free == ["alphapo", "cpo", "orpo", "sft", "simpo"]
    unpaired = [name for name in NAMED_HERE if not losses.describe(name).paired]
    assert unpaired == ["apo_zero_unpaired", "bco_unpaired", "kto"]
    assert "z_ref" not in losses.describe("apo_zero_unpaired").inputs


def test_asking_about_losses_imports_nothing_heavy():
    program = """
        import sys
        from trl_ext import losses
        for name in losses.available():
            info = losses.describe(name)
            assert info.check(info.hyperparameters) == [], name
            assert info.check({"betta": 1}), name
        mix = losses.describe_mix({"dpo": 1.0, "sft": 0.2})
        assert mix.needs_reference and mix.check({"beta": 0.1, "gamma": 1}) != []
        try:
            losses.canonical("dop")
        except ValueError:
            pass
        heavy = {"torch", "numpy", "transformers", "trl", "datasets", "peft"} & set(sys.modules)
        assert not heavy, heavy
        assert not any(f"trl_ext.losses.{name}" in sys.modules for name in losses.available())
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_declaration_is_read_once():
    assert losses.describe("dpo") is losses.describe("sigmoid")


def message(function, *args, **kwargs):
    with pytest.raises(ValueError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def test_unknown_loss():
    text = message(losses.get, "simop")
    assert re.search(r"There is no loss 'simop'\. Did you mean simpo(, \w+)* or sigmoid\?", text)
    assert all(name in text for name in losses.available()) and "sigmoid (dpo)" in text
    assert "Did you mean exo_pair" in message(losses.describe, "exo_par")
    assert "Did you mean" not in message(losses.canonical, "zzzzzz")
    assert "There is no loss ['dpo', 'sft']" in message(losses.get, ["dpo", "sft"])


def test_unknown_hyperparameters_say_what_is_read():
    reads = "average, beta, f_alpha_divergence_coef, f_divergence_type"
    assert losses.describe("ipo").check({"betta": 1}) == [
        f"ipo does not read 'betta'; it reads {reads}. Did you mean 'beta'?"
    ]
    assert losses.describe("ipo").check({"gamma": 1}) == [
        f"ipo does not read 'gamma'; it reads {reads}. 'gamma' belongs to alphapo, simpo, tpo_l."
    ]
    assert losses.describe("sft").check({"beta": 1})[0].startswith("sft does not read 'beta'; it reads no hyper")
    text = message(losses.get, "ipo", betta=1, gamma=2, beta=0)
    assert all(part in text for part in ("'betta'", "'gamma'", "greater than 0, not 0"))


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("dpo", {"beta": 0}),
        ("dpo", {"beta": -0.1}),
        ("dpo", {"beta": float("nan")}),
        ("dpo", {"beta": float("inf")}),
        ("dpo", {"beta": "0.1"}),
        ("dpo", {"beta": True}),
        ("dpo", {"beta": None}),
        ("dpo", {"label_smoothing": 0.5}),
        ("dpo", {"label_smoothing": -0.1}),
        ("dpo", {"f_divergence_type": "kl"}),
        ("exo", {"label_smoothing": 0}),
        ("ipo", {"average": 1}),
        ("ipo", {"average": "yes"}),
        ("simpo", {"gamma": -1}),
        ("simpo", {"loss_form": "ipo"}),
        ("cpo", {"cpo_alpha": -1}),
        ("alphapo", {"alpha": float("inf")}),
        ("kto", {"desirable_weight": 0}),
        ("kto", {"desirable_weight": "balanced"}),
        ("discopop", {"discopop_tau": 0}),
    ],
)
def test_values_out_of_bounds(name, wrong):
    ((key, value),) = wrong.items()
    (problem,) = losses.describe(name).check(wrong)
    assert problem.startswith(f"{name}: {key} must be ") and problem.endswith(f"not {value!r}.")
    with pytest.raises(ValueError, match="must be"):
        losses.get(name, **wrong)


@pytest.mark.parametrize(
    "name, right",
    [
        ("dpo", {"beta": 1}),
        ("dpo", {"label_smoothing": 0}),
        ("cpo", {"cpo_alpha": 0}),
        ("simpo", {"gamma": 0}),
        ("cpo", {"loss_form": "ipo"}),
        ("alphapo", {"alpha": -2}),
        ("kto", {"desirable_weight": "auto", "undesirable_weight": 1.3}),
        ("dpo", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0}),
    ],
)
def test_values_in_bounds(name, right):
    assert losses.describe(name).check(right) == []
    assert losses.get(name, **right).hyperparameters == losses.describe(name).hyperparameters | right | (
        {"gamma_beta_ratio": None} if "gamma" in right else {}
    )


def test_exclusive_hyperparameters():
    assert losses.describe("simpo").check({"gamma": 0.5, "gamma_beta_ratio": 0.3}) == [
        "simpo takes gamma_beta_ratio or gamma, not both. Remove one of gamma_beta_ratio, gamma."
    ]
    assert losses.get("simpo").hyperparameters["gamma_beta_ratio"] == 0.25
    by_gamma = losses.get("simpo", beta=2.0, gamma=0.5)
    assert by_gamma.hyperparameters["gamma_beta_ratio"] is None
    tensors = read_by(by_gamma, batch())
    torch.testing.assert_close(by_gamma(**tensors).losses, losses.get("simpo")(**tensors).losses)  # 0.25 · 2
    assert losses.get("simpo", gamma=None) == losses.get("simpo")
    assert by_gamma.replace(gamma_beta_ratio=0.4).hyperparameters["gamma"] is None
    assert by_gamma.replace(beta=3.0).hyperparameters["gamma"] == 0.5


def test_a_value_that_would_be_ignored_is_a_problem():
    (problem,) = losses.describe("dpo").check({"f_alpha_divergence_coef": 0.7})
    assert "dpo reads f_alpha_divergence_coef only with f_divergence_type: alpha_divergence" in problem
    assert problem.endswith("Remove f_alpha_divergence_coef or change f_divergence_type.")
    assert losses.describe("dpo").check({"f_alpha_divergence_coef": 0.5}) == []  # TRL's default, written out
    assert len(losses.describe("simpo").check({"label_smoothing": 0.1, "loss_form": "hinge"})) == 1
    assert losses.describe("simpo").check({"label_smoothing": 0.1}) == []


def test_calling_with_the_wrong_tensors():
    loss, tensors = losses.get("dpo"), batch()
    with pytest.raises(TypeError, match=r"dpo reads exactly chosen_logps, .*; missing rejected_logps"):
        loss(**{k: tensors[k] for k in loss.inputs if k != "rejected_logps"})
    with pytest.raises(TypeError, match="unread chosen_lens"):
        loss(**read_by(loss, tensors), chosen_lens=tensors["chosen_lens"])
    with pytest.raises(TypeError):
        loss(tensors["chosen_logps"])


MADE = [
    lambda: losses.get("ipo", beta=0.3),
    lambda: losses.get("simpo", gamma=0.5),
    lambda: losses.get("kto", desirable_weight="auto"),
    lambda: losses.get({"sigmoid": 0.8, "simpo": 0.2}, beta=0.3, simpo={"beta": 2.5, "gamma": 1.0}),
]


@pytest.mark.parametrize("make", MADE)
def test_pickling_copying_and_equality(make):
    loss = make()
    for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss), copy.copy(loss)):
        assert twin == loss and twin.hyperparameters == loss.hyperparameters and repr(twin) == repr(loss)
    assert loss.replace(beta=0.7) != loss and loss != losses.get("dpo")
    assert pickle.loads(pickle.dumps(loss.info)) == loss.info


def test_mix_is_the_weighted_sum():
    tensors = batch()
    mix = losses.get({"sigmoid": 0.8, "simpo": 0.2, "sft": 1.5}, beta=0.3, simpo={"beta": 2.5})
    assert mix.name == "0.8·dpo + 0.2·simpo + 1.5·sft"
    assert mix.hyperparameters["dpo"]["beta"] == 0.3 and mix.hyperparameters["simpo"]["beta"] == 2.5
    assert mix.paired and mix.needs_reference and not mix.coupled
    logps = ("chosen_logps", "rejected_logps")
    assert set(mix.inputs) == {*logps, *(f"ref_{name}" for name in logps), "chosen_lens", "rejected_lens"}
    parts = [losses.get("dpo", beta=0.3), losses.get("simpo", beta=2.5), losses.get("sft")]
    outs = [part(**read_by(part, tensors)) for part in parts]
    out = mix(**read_by(mix, tensors))
    torch.testing.assert_close(out.losses, 0.8 * outs[0].losses + 0.2 * outs[1].losses + 1.5 * outs[2].losses)
    torch.testing.assert_close(out.chosen_rewards, outs[0].chosen_rewards)
    for part in parts:
        assert part.formula in mix.formula and part.reduction in mix.reduction and part.paper in mix.paper
    assert losses.get({"dpo": 1.0, "aot": 1.0}).coupled
    assert not losses.get({"simpo": 1.0, "sft": 0.1}).needs_reference


@pytest.mark.parametrize(
    "weights, source",
    [
        ({"simpo": 1.0, "dpo": 0.1}, "dpo"),  # the first that needs a reference
        ({"nca": 1.0, "dpo": 0.1}, "nca"),
        ({"simpo": 1.0, "orpo": 0.1}, "simpo"),  # none does: the first
        ({"sft": 0.2, "simpo": 1.0}, "simpo"),  # but sft has no rewards to give
    ],
)
def test_rewards_of_a_mix(weights, source):
    tensors, mix, loss = batch(), losses.get(weights), losses.get(source)
    expected = loss(**read_by(loss, tensors))
    out = mix(**read_by(mix, tensors))
    torch.testing.assert_close(out[1:], expected[1:])
    assert not out.chosen_rewards.requires_grad and out.losses.requires_grad


def test_initial_value_of_a_mix():
    assert losses.get({"dpo": 2.0, "ipo": 0.1}, beta=0.5).initial_value == pytest.approx(
        2 * 0.693147 + 0.1 * 1, rel=1e-6
    )
    assert losses.get({"dpo": 1.0, "sft": 0.2}).initial_value is None
    unpaired = losses.get({"kto": 1.0, "apo_zero_unpaired": 2.0}, undesirable_weight=1.0)
    assert not unpaired.paired and unpaired.initial_value == pytest.approx(1.5)


def test_hyperparameters_of_a_mix():
    info = losses.describe_mix({"dpo": 1.0, "simpo": 0.2})
    assert info.check({"beta": 0.1, "simpo": {"beta": 2.0}, "sigmoid": {"label_smoothing": 0.1}}) == []
    assert info.check({"cpo_alpha": 1.0})[0].startswith(
        "No component of dpo + 0.2·simpo reads 'cpo_alpha'. They read dpo"
    )
    assert info.check({"ipo": {"beta": 1.0}}) == [
        "'ipo' is not a component of dpo + 0.2·simpo. Its components are dpo, simpo."
    ]
    assert info.check({"simpo": {"average": True}})[0].startswith("simpo does not read 'average'")
    assert info.check({"beta": -1}) == [
        "dpo: beta must be a number greater than 0, not -1.",
        "simpo: beta must be a number greater than 0, not -1.",
    ]
    assert "not both" in info.check({"gamma": 1.0, "simpo": {"gamma_beta_ratio": 0.3}})[0]
    changed = losses.get({"dpo": 1.0, "simpo": 0.2}).replace(beta=0.4, simpo={"gamma": 0.1})
    assert changed.hyperparameters["dpo"]["beta"] == changed.hyperparameters["simpo"]["beta"] == 0.4
    assert changed.hyperparameters["simpo"]["gamma_beta_ratio"] is None


def test_impossible_mixes_name_every_problem():
    text = message(losses.describe_mix, {"dpo": 0, "sigmoid": 1, "kto": float("nan"), "simop": True})
    assert "The weight of dpo must be a positive finite number, not 0." in text
    assert "'sigmoid' names dpo a second time" in text
    assert "The weight of kto" in text and "The weight of simop" in text
    assert "There is no loss 'simop'" in text
    assert "Paired losses (dpo) and unpaired losses (kto)" in text
    assert "at least one loss" in message(losses.get, {})


NEW_LOSS = '''
"""Margin: the plainest loss there is (a test's own)."""
from typing import Literal

from trl_ext.losses._outputs import PairedOutput

FORMULA = "−βh"
PAPER = "arXiv:0000.00000"
ALIASES = ("plain",)
REDUCTION = "summed"
BETA_UNIT = "per nat"
WHEN = "This is a test."


def margin(chosen_logps, rejected_logps, *, beta: float = 1.0, sign: Literal["plus", "minus"] = "minus"):
    losses = (beta if sign == "plus" else -beta) * (chosen_logps - rejected_logps)
    return PairedOutput(losses, chosen_logps.detach(), rejected_logps.detach())


def initial_value(**_):
    return 0.0
'''


@pytest.fixture
def extended(tmp_path, monkeypatch):
    """A folder that counts as part of the losses package."""
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("trl_ext.losses.margin", None)


def test_adding_a_loss_takes_one_file(extended):
    (extended / "margin.py").write_text(NEW_LOSS)
    assert "margin" in losses.available() and losses.canonical("plain") == "margin"
    assert losses.describe("margin").inputs == ("chosen_logps", "rejected_logps")
    assert losses.readers("sign") == ("margin",)
    assert "one of 'plus', 'minus'" in losses.describe("margin").check({"sign": "up"})[0]
    loss = losses.get("plain", beta=2.0)
    out = loss(chosen_logps=torch.tensor([-1.0]), rejected_logps=torch.tensor([-4.0]))
    assert out.losses.tolist() == [-6.0] and loss.initial_value == 0.0 and not loss.needs_reference
    assert losses.get({"margin": 1.0, "dpo": 1.0}, beta=0.1).initial_value == pytest.approx(0.693147, rel=1e-6)
    assert "Did you mean margin" in message(losses.get, "margins")


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("def margin(", "def other(", "must define a function named 'margin'"),
        ("chosen_logps, rejected_logps, *", "logits, *", "its tensors are logits"),
        (
            "chosen_logps, rejected_logps, *",
            "chosen_logps, ref_logps, *",
            "A paired loss reads some of chosen_logps",
        ),
        ("beta: float = 1.0", "beta: float", "beta must have a default"),
        ("beta: float", "beta: Positiv", "The annotation `Positiv` is not supported"),
        ('FORMULA = "−βh"', "", "must define FORMULA as literals, each on a line of its own"),
        ('WHEN = "This is a test."', "", "must define WHEN as literals"),
    ],
)
def test_a_file_that_is_no_loss_is_named(extended, old, new, problem):
    (extended / "margin.py").write_text(NEW_LOSS.replace(old, new))
    text = message(losses.describe, "margin")
    assert problem in text and "margin.py" in text
