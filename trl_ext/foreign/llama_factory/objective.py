"""Read which trainer and loss a LLaMA-Factory file means: `stage`, and the keys of its preference losses."""

from typing import Any

from trl_ext.foreign.common import with_sft
from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.llama_factory.file_values import UNSET, no_such, number, only_in, renamed_in, stage
from trl_ext.foreign.meaning import Meaning

LOSSES = {"sigmoid": "dpo", "hinge": "hinge", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo", "kto_pair": "kto"}
"""`pref_loss` and the loss here; the nearest one for `kto_pair`."""
WITHOUT_REFERENCE = ("orpo", "simpo")
SMALLEST = 1e-6
"""LLaMA-Factory adds no term with a smaller weight."""

OF_PREFERENCES = ("dpo", "kto", "orpo")
TRAINERS = {
    "sft": Meaning({"trainer": "sft"}),
    "rm": Meaning({"trainer": "reward"}),
    "kto": Meaning({"loss": "kto"}),
    "pt": Meaning({"trainer": "sft"}, "pre-training is supervised fine-tuning on a column `text`, all of whose tokens are trained"),
    "ppo": Meaning(
        {"trainer": "ppo"},
        changes="the critic is an adapter of its own, whose learning rate is 10 times `learning_rate`; LLaMA-Factory's critic is a "
        "linear layer on the policy",
    ),
}  # fmt: skip


def _stage(value: Any, values: Values) -> Meaning:
    if value == "dpo" and values.get("loss") and not {"pref_loss", "pref_ftx"} & set(values):
        return Meaning(reason="`loss` says what is trained")
    if value == "dpo":
        return _preference(values)
    if value == "orpo":  # of older releases
        return _preference({**values, "pref_loss": "orpo"})
    return TRAINERS.get(str(value)) or no_such(["dpo", *TRAINERS])


def _trainer(value: Any, values: Values) -> Meaning | tuple[()]:
    """`--trainer` of a file, whose stage says what it trains."""
    return Meaning(reason=f"the stage of the file is {values['stage']}") if values.get("stage") else ()


def _preference(values: Values) -> Meaning:
    """The loss of `stage: dpo`, all of its terms included."""
    name = str(values.get("pref_loss") or "sigmoid")
    if "pref_loss" not in values and values.get("loss"):  # a key of LLaMA-Factory in a recipe
        return with_sft(number(values.get("pref_ftx")), values)
    if name not in LOSSES:
        return no_such(LOSSES)
    if name == "kto_pair":
        return Meaning(
            {"loss": "kto"},
            "there is no loss kto_pair, which TRL has removed",
            "`kto` splits each pair into a desirable and an undesirable completion, and takes its reference point from completions "
            "of other prompts",
        )
    weights = _weights(name, values)
    changes = ""
    if "bco" in weights:
        changes = "BCO here subtracts the mean reward over the steps before, without the current one"
    loss = weights if len(weights) > 1 else LOSSES[name]
    return Meaning({"loss": loss}, "" if len(weights) == 1 else "these are the terms of its loss", changes)


def _weights(name: str, values: Values) -> dict[str, float]:
    """The terms of the loss: (preference + bco·BCO) / (1 + bco) + ftx·SFT."""
    ftx, bco = number(values.get("pref_ftx")) or 0, number(values.get("pref_bco_weight")) or 0
    if name in WITHOUT_REFERENCE or bco < SMALLEST:
        weights: dict[str, float] = {LOSSES[name]: 1}
    else:
        weights = {LOSSES[name]: round(1 / (1 + bco), 6), "bco": round(bco / (1 + bco), 6)}
    return weights | ({"sft": ftx} if ftx > SMALLEST else {})


def _ftx(value: Any, values: Values) -> Meaning:
    if not (number(value) or 0) > SMALLEST:
        return Meaning(reason="no SFT loss is added unless `loss` says so")
    return _kto_ftx(value, values) if stage(values) == "kto" else _preference(values)


def _kto_ftx(value: Any, values: Values) -> Meaning:
    if not number(value):
        return Meaning(reason="no SFT loss is added unless `loss` says so")
    return Meaning(
        reason="the SFT loss reads pairs, so `loss: kto` cannot be mixed with it",
        changes=f"no SFT loss of weight {value} is added for the desirable completions",
    )


def _bco(value: Any, values: Values) -> Meaning:
    if not (number(value) or 0) > SMALLEST:
        return Meaning(reason="no BCO loss is added unless `loss` says so")
    return _preference(values)


def _margin(value: Any, values: Values) -> Meaning:
    if values.get("pref_loss") != "simpo":
        return Meaning(reason="only the loss simpo reads it")
    return (
        Meaning({"gamma": value}, "gamma is the margin itself, not its ratio to beta") if value is not None else UNSET
    )


def _smoothing(value: Any, values: Values) -> Meaning:
    if not number(value):
        return Meaning(reason="it is 0, as here")
    if str(values.get("pref_loss") or "sigmoid") != "sigmoid":
        return Meaning(reason="in LLaMA-Factory only the loss sigmoid reads it")
    return Meaning({"label_smoothing": value})


def _length_desensitised(value: Any, values: Values) -> Meaning:
    if value is None:
        return UNSET
    if str(values.get("pref_loss")) in WITHOUT_REFERENCE:
        return Meaning(
            reason="it scales log-ratios to a reference (LD-DPO), and this loss has none",
            changes="all tokens of a completion have the same weight",
        )
    return Meaning({"ld_alpha": value})


def _reference(value: Any, values: Values) -> Meaning:
    """Another model as the reference."""
    if not value:
        return UNSET
    if stage(values) == "dpo" and str(values.get("pref_loss")) in WITHOUT_REFERENCE:
        return Meaning(reason=f"the loss {values['pref_loss']} reads no reference")
    if str(value) == str(values.get("model_name_or_path")) and not values.get("ref_model_adapters"):
        return Meaning(
            reason="the reference is this model anyway: the one that training starts from, its adapter switched off"
        )
    return Meaning(
        reason="the reference is the model that training starts from, its adapter switched off",
        changes=f"the reference is {values.get('model_name_or_path', 'the base model')}, not {value}",
    )


def _reference_adapters(value: Any, values: Values) -> Meaning:
    if not value:
        return UNSET
    return Meaning(
        reason="the reference is the model that training starts from, its adapter switched off",
        changes="these adapters are not part of the reference. To have them in it, merge them into the base model first "
        "(`trl-ext merge ADAPTER --output DIR`) and train on the result",
    )


MEANS: dict[str, str | Meaning | Reader] = {
    "stage": _stage,
    "trainer": _trainer,
    "pref_loss": only_in("dpo", lambda value, values: _preference(values)),
    "pref_beta": renamed_in(OF_PREFERENCES, "beta"),
    "pref_ftx": only_in(OF_PREFERENCES, _ftx),
    "pref_bco_weight": only_in("dpo", _bco),
    "simpo_gamma": only_in("dpo", _margin),
    "dpo_label_smoothing": only_in("dpo", _smoothing),
    "ld_alpha": only_in("dpo", _length_desensitised),
    "kto_chosen_weight": renamed_in("kto", "desirable_weight"),
    "kto_rejected_weight": renamed_in("kto", "undesirable_weight"),
    # Names of older releases.
    "dpo_beta": renamed_in("dpo", "beta"),
    "dpo_loss": only_in("dpo", lambda value, values: _preference({**values, "pref_loss": value})),
    "dpo_ftx": only_in("dpo", lambda value, values: _ftx(value, {**values, "pref_ftx": value})),
    "orpo_beta": renamed_in(OF_PREFERENCES, "beta"),
    "kto_beta": renamed_in("kto", "beta"),
    "kto_ftx": _kto_ftx,
    "ref_model": only_in((*OF_PREFERENCES, "ppo"), _reference),
    "ref_model_adapters": only_in((*OF_PREFERENCES, "ppo"), _reference_adapters),
    "ref_model_quantization_bit": only_in(
        (*OF_PREFERENCES, "ppo"),
        lambda value, values: UNSET if not value else Meaning(reason="the reference shares the base model, quantised as it is"),
    ),
}  # fmt: skip
