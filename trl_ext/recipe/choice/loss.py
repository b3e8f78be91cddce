"""Choose the loss: `loss`, or TRL's spelling `loss_type` with `loss_weights`."""

from dataclasses import dataclass, replace
from typing import Any

from trl_ext import losses, methods
from trl_ext.checks.loss import mix_from_trl
from trl_ext.methods import Method
from trl_ext.recipe import schema
from trl_ext.recipe.choice import trl_file
from trl_ext.recipe.layers.layer import Layer, Layers, Place, Setting
from trl_ext.recipe.problems import Problems
from trl_ext.support import messages

SPELLINGS = ("loss", "loss_type", "loss_weights")
"""Keys that choose a loss."""

UNNAMED = (
    "The file does not say what it trains, and TRL's `dpo` and `kto` read the same settings. Write `loss: dpo` for DPO on pairs or "
    "`loss: kto` for KTO, which unpairs them (`--trainer dpo` and `--trainer kto` do the same), or name another loss or `trainer`."
)

DEFAULT_ON_PAIRS, DEFAULT_ON_LABELS = "dpo", "kto"
"""Losses of recipes that name none."""

LossName = str | dict[str, float]
"""A canonical name, or a mix {canonical name: weight}."""


@dataclass(frozen=True)
class Choice:
    """A chosen loss.

    Attributes:
        loss: Its name; empty if the recipe names no loss that exists.
        info: Its declaration, `None` if the recipe names no loss that exists.
        is_stated: Somebody named it; otherwise it is the default.
        in_file: The loss that the file asks for without flags; empty if there is no such loss.
    """

    loss: LossName
    info: losses.LossInfo | losses.MixInfo | None
    is_stated: bool = True
    in_file: LossName = ""


def choose_loss(layers: Layers, method: Method, problems: Problems) -> Choice | None:
    """The loss to train; removes `SPELLINGS` from file and flags. `None` for methods without a loss.

    Flags win over the file, `loss` over `loss_type`. A recipe that names no loss trains that of its `trainer`, KTO if it has a
    setting that only methods on labelled completions have, and else DPO. A file that TRL's `dpo` and `kto` read alike has to
    say which of them it is for.
    """
    if not method.has_loss:
        return None
    is_unnamed = method.is_default and layers.verb is None and trl_file.is_unnamed(layers)
    in_file, in_flags = (_named_in(layer, problems) for layer in (layers.file, layers.flags))
    is_overridden = in_flags is not None and layers.verb is not None and layers.verb.place.line is not None
    if layers.verb is not None and not is_overridden and (named := in_flags or in_file) is not None:
        _check_verb(layers.verb, named, problems)
    if in_file is None and layers.verb is not None:
        in_file = Choice(layers.verb.value, losses.describe(layers.verb.value))
    elif in_file is None:
        in_file, note = _default(layers.file)
        if note and in_flags is None:
            problems.notes.append(note)
        elif is_unnamed and not layers.file.reported and not trl_file.is_for_dpo(layers.file):
            problems.add_sentences(UNNAMED)
    return replace(in_flags or in_file, in_file=in_file.loss)


def settle_method(method: Method, chosen: Choice | None) -> Method:
    """The method once the loss is known: without `trainer`, it is the one that reads the data of the loss."""
    if not method.is_default or chosen is None or chosen.info is None:
        return method
    return methods.of(None, is_paired=chosen.info.paired)


def canonical_loss(name: Any) -> tuple[LossName, losses.LossInfo | losses.MixInfo]:
    """A loss or a mix with canonical names, and its declaration. ValueError if there is no such loss."""
    if isinstance(name, dict):
        info = losses.describe_mix(name)
        if len(info.components) == 1 and info.weights[0] == 1:
            return info.components[0].name, info.components[0]
        return {part.name: weight for part, weight in zip(info.components, info.weights, strict=True)}, info
    info = losses.describe(name)
    return info.name, info


def loss_title(loss: LossName) -> str:
    """A loss in a sentence: ``dpo``, or ``dpo + 0.1·sft``."""
    return loss if isinstance(loss, str) else losses.describe_mix(loss).name


def _default(file: Layer) -> tuple[Choice, str | None]:
    """The loss of a file that names none, and a note if it is not the usual one."""
    on_pairs, on_labels = (schema.training(methods.of(None, is_paired=is_paired).name) for is_paired in (True, False))
    telling = next(
        (setting.place for key, setting in file.settings.items() if key in on_labels and key not in on_pairs), None
    )
    name = DEFAULT_ON_PAIRS if telling is None else DEFAULT_ON_LABELS
    choice = Choice(name, losses.describe(name), is_stated=False)
    note = f"The recipe names no loss. {telling} is a setting of {name.upper()}, so the loss is {name}."
    return choice, None if telling is None else note


def _check_verb(verb: Setting, named: Choice, problems: Problems) -> None:
    """Report a loss that the verb of TRL which `trainer` names does not train."""
    is_paired = trl_file.VERBS[verb.value]
    if named.info is None or named.info.paired == is_paired:
        return
    theirs, ours = ("pairs", "labelled completions") if is_paired else ("labelled completions", "pairs")
    problems.add(
        verb.place,
        f"is {verb.value}, which trains on {theirs}, and the loss {loss_title(named.loss)} trains on {ours}. Keep one of them.",
    )


def _named_in(layer: Layer, problems: Problems) -> Choice | None:
    """The loss that one layer names."""
    given = {key: layer.settings.pop(key) for key in SPELLINGS if key in layer.settings}
    given = {key: setting for key, setting in given.items() if setting.value is not None}
    if "loss_type" in given:
        names, place = given["loss_type"]
        weights = given["loss_weights"].value if "loss_weights" in given else None
        given["loss_type"] = Setting(_from_trl(names, weights, problems), place)
    elif "loss_weights" in given and given["loss_weights"].value != [1]:
        problems.add(
            given["loss_weights"].place,
            "has no `loss_type` to weight. Write, for instance, `loss: {dpo: 1, sft: 0.1}`.",
        )
    places = [given[key].place for key in ("loss", "loss_type") if key in given]
    choices = [_choice(*given[key], problems) for key in ("loss", "loss_type") if key in given]
    if len(choices) == 2 and choices[0].loss != choices[1].loss and all(choice.info for choice in choices):
        both = [f"{place} is {loss_title(choice.loss)}" for place, choice in zip(places, choices, strict=True)]
        problems.add_sentences(f"{' and '.join(both)}. Keep one of them.")
    return choices[0] if choices else None


def _choice(name: Any, place: Place, problems: Problems) -> Choice:
    """The loss of this name; if there is none, a problem and a choice without a loss."""
    if isinstance(name, str) and name.lower() in losses.available():
        name = name.lower()
    elif (reason := _refusal(name)) is not None:
        problems.add(place, f"is {messages.shown(name)}{reason}")
        return Choice("", None)
    try:
        return Choice(*canonical_loss(name))
    except ValueError as error:
        problems.add_sentences(f"{place}: {error}")
        return Choice("", None)


def _refusal(name: Any) -> str | None:
    """Why a value of this form is not a loss; continues a sentence that begins with the value. `None` if it may be one."""
    several = "To train each loss in a run of its own, use `trl-ext compare`."
    if not isinstance(name, (str, dict)):
        return f". Give the name of a loss (ipo), or names with weights ({{dpo: 1, sft: 0.1}}). {several}"
    if isinstance(name, str) and name.startswith("{"):
        mistake = "is not a mapping of losses to weights" if "}" in name else "lacks its closing brace"
        return f", which {mistake}. Write, for instance, {{dpo: 1, sft: 0.1}}."
    if isinstance(name, str) and "," in name:
        return f". To mix losses, give their weights, for instance {{dpo: 1, sft: 0.1}}. {several}"
    return None


def _from_trl(names: Any, weights: Any, problems: Problems) -> Any:
    """`loss_type` and `loss_weights` as a `loss`."""
    if not isinstance(names, (str, list)) or not all(isinstance(name, str) for name in names):
        return names
    try:
        return mix_from_trl(names, weights)
    except ValueError as error:
        problems.add_sentences(str(error))
        return mix_from_trl(names, None)
