"""Give axolotl's keys of what is trained: the loss and its hyperparameters, a reward model, and trainers without a counterpart."""

from typing import Any

from trl_ext import losses
from trl_ext.foreign.axolotl.kind import (
    LOSSES,
    REWARD,
    is_axolotl,
    is_off,
    kind,
    only_for,
    renamed,
    section,
    unless_off,
)
from trl_ext.foreign.common import DEFAULT, UNSET, of
from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning

DPO = ("dpo", "ipo")
BETA = 0.1
"""The beta of TRL's DPO, KTO, ORPO and CPO, which axolotl leaves as they are."""

ABSENT = {
    "grpo": "GRPO is `trainer: grpo` here, but axolotl's keys of its data and rewards are not converted",
    "gdpo": (
        "GDPO is `trainer: grpo` with `multi_objective_aggregation: normalize_then_sum` here, but axolotl's keys of its data and "
        "rewards are not converted"
    ),
    "ebft": "EBFT, which rewards sampled text for features close to those of real text, is not trained here",
    "prm": "process reward models are not trained here. `trainer: reward` trains on pairs of whole completions",
    "diffusion": "models that predict masked tokens (diffusion) are not trained here",
}
"""What has no counterpart, and why nothing is written instead."""

INSTEAD = {
    "grpo": "train this file with axolotl, or write a recipe for `trainer: grpo`, which takes the keys inside `trl`",
    "prm": "train this file with axolotl, or train a reward model on pairs: `trainer: reward`",
}
INSTEAD["gdpo"] = INSTEAD["grpo"]


def no_counterpart(name: str) -> Meaning:
    """A kind of training that trl-ext does not have."""
    return Meaning(reason=ABSENT[name], advice=INSTEAD.get(name, "train this file with axolotl"), prevents=True)


def _rl(value: Any, values: Values) -> Meaning:
    name = kind(values)
    if name == "dpo":
        return _dpo(values)
    if name == "simpo":
        return _simpo(values)
    if name in LOSSES:
        return Meaning({"loss": name})
    if value and name in ABSENT:
        return no_counterpart(name)
    if not is_off(value):
        there = ", ".join((*LOSSES, "grpo", "gdpo", "ebft"))
        return Meaning(reason=f"axolotl has no such value. It has {there}", advice="correct it", prevents=True)
    if name in (REWARD, *ABSENT):  # another key says so
        return UNSET
    return Meaning({"trainer": "sft"}, "a file without `rl` trains on demonstrations")


def _dpo(values: Values) -> Meaning:
    types, weights = _list(values.get("dpo_loss_type")), _list(values.get("dpo_loss_weights"))
    if not types:
        return Meaning({"loss": "dpo"})
    if len(types) == 1 and weights in ([], [1], [1.0]):
        return Meaning({"loss": _canonical(types[0])})
    weights = weights if len(weights) == len(types) else [1.0] * len(types)
    return Meaning({"loss": {_canonical(name): weight for name, weight in zip(types, weights, strict=True)}})


def _simpo(values: Values) -> Meaning:
    weight = values.get("cpo_alpha")
    weight = 1.0 if weight is None else weight
    if not weight:
        return Meaning({"loss": "simpo"})
    return Meaning(
        {"loss": {"simpo": 1, "sft": weight}},
        "axolotl trains SimPO by TRL's CPO, which adds the negative log-likelihood of the chosen completions times `cpo_alpha` "
        "(default: 1)",
        "the likelihood is averaged over each completion and then over completions, not over all tokens of a micro-batch",
    )


def _loss_of(values: Values) -> Meaning:
    """The loss of the file, as the key `rl` gives it."""
    return _rl(values.get("rl"), values)


def _alpha(value: Any, values: Values) -> Meaning:
    return UNSET if value is None else _loss_of(values)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _canonical(name: Any) -> Any:
    try:
        return losses.canonical(str(name))
    except ValueError:
        return name  # validation names the losses


def _beta_key(values: Values) -> str | None:
    """The key whose value axolotl hands to the loss as its beta."""
    if section(values, "trl").get("beta") is not None:
        return "trl"
    if values.get("dpo_beta") is not None and not values.get("rl_beta"):
        return "dpo_beta"
    return next((key for key in ("rl_beta", "orpo_alpha") if values.get(key) is not None), None)


def _beta(key: str, reason: str = "") -> Reader:
    def read(value: Any, values: Values) -> Meaning:
        if value is None:
            return UNSET
        if not is_axolotl(values):
            return Meaning({"loss": "orpo"} | {"beta": value} if key == "orpo_alpha" else {"beta": value}, reason)
        if kind(values) not in LOSSES:
            return Meaning(reason="axolotl reads it for preference losses only")
        used = _beta_key(values)
        if used != key:
            return Meaning(reason=f"axolotl reads `{'trl.beta' if used == 'trl' else used}` instead")
        return Meaning({"beta": value}, reason)

    return read


def defaults(values: Values) -> dict[str, Any]:
    """The defaults of these keys. A beta is named where the loss reads one."""
    found: dict[str, Any] = {} if "rl" in values else {"rl": None}
    if kind(values) in LOSSES and _beta_key(values) is None and _reads_beta(values):
        found["rl_beta"] = BETA
    if kind(values) == "simpo" and values.get("simpo_gamma") is None:
        found["simpo_gamma"] = 0.5  # of TRL's CPO
    return found


def _reads_beta(values: Values) -> bool:
    return "beta" in _hyperparameters(values)


def _hyperparameters(values: Values) -> set[str]:
    """The hyperparameters that some loss of the file reads."""
    loss = _loss_of(values).settings.get("loss")
    names = loss if isinstance(loss, dict) else [loss]
    return {key for name in names if name in losses.available() for key in losses.describe(name).hyperparameters}


def _smoothing(value: Any, values: Values) -> Meaning:
    if is_off(value) or not value:
        return DEFAULT
    if kind(values) != "dpo" or "label_smoothing" not in _hyperparameters(values):
        return Meaning(reason="the loss of this file does not read it")
    return Meaning({"label_smoothing": value})


def _kto_weight(name: str) -> Reader:
    return only_for(("kto",), lambda value, values: Meaning({name: value}) if value else DEFAULT, "KTO")


def _reward(on: Any, values: Values) -> Meaning:
    return Meaning({"trainer": "reward"}) if on and kind(values) == REWARD else DEFAULT


def _trl(given: Any, values: Values) -> Meaning | tuple[Meaning, ...]:
    """The mapping of GRPO's settings. Preference losses read its beta alone."""
    if not isinstance(given, dict) or not given:
        return UNSET
    others = [key for key in given if key != "beta"]
    found = [Meaning(reason=f"only trainers that sample completions read {_named(others)}")] if others else []
    if given.get("beta") is not None and kind(values) in LOSSES:
        found.insert(0, Meaning({"beta": given["beta"]}, part="trl.beta"))
    return tuple(found) or UNSET


def _named(keys: list[str]) -> str:
    first = [f"`{key}`" for key in keys[:3]]
    rest = len(keys) - len(first)
    return ", ".join(first) + (f" and {rest} more" if rest else "")


MEANS: dict[str, str | Meaning | Reader] = {
    "rl": _rl,
    "rl_beta": _beta("rl_beta"),
    "dpo_beta": _beta("dpo_beta"),
    "orpo_alpha": _beta("orpo_alpha", "the weight of ORPO's odds-ratio term is its beta"),
    "dpo_loss_type": only_for(("dpo",), _alpha, "DPO"),
    "dpo_loss_weights": only_for(("dpo",), _alpha, "DPO"),
    "dpo_label_smoothing": _smoothing,
    "dpo_use_weighting": only_for(DPO, unless_off(renamed("use_weighting")), "DPO"),
    "precompute_ref_log_probs": only_for(DPO, renamed("precompute_ref_log_probs"), "DPO"),
    "cpo_alpha": only_for(("simpo",), _alpha, "SimPO"),
    "simpo_gamma": only_for(("simpo",), renamed("gamma"), "SimPO"),
    "kto_desirable_weight": _kto_weight("desirable_weight"),
    "kto_undesirable_weight": _kto_weight("undesirable_weight"),
    "reward_model": _reward,
    "process_reward_model": unless_off(of(lambda _: no_counterpart("prm"))),
    "center_rewards_coefficient": only_for((REWARD,), renamed("center_rewards_coefficient"), "reward models"),
    "num_labels": Meaning(reason="a reward model has one score"),
    "trl": _trl,
    "rpo_alpha": unless_off(
        Meaning(
            reason="axolotl refuses it since TRL 0.29",
            advice="to add the SFT loss, write `loss: {dpo: 1, sft: 0.5}`, with the weight that you want",
        )
    ),
    "dpo_norm_loss": unless_off(
        Meaning(reason="axolotl refuses it since TRL 0.29", advice="DPO on mean log-ratios is `loss: dpo_norm`")
    ),
}
"""Every key of this part, in the order of axolotl's schema where that helps."""
