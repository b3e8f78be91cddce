"""Which loss a recipe trains: `loss`, or TRL's spelling `loss_type` with `loss_weights`."""

from typing import Any, NamedTuple

from trl_ext import losses
from trl_ext.recipe import schema
from trl_ext.recipe.settings import Layer
from trl_ext.support import messages

SPELLINGS = ("loss", "loss_type", "loss_weights")

LossName = str | dict[str, float]
"""A canonical name, or a mix {canonical name: weight}."""


class Choice(NamedTuple):
    """A loss, how a sentence names where it was chosen, and its declaration (`None` if there is none)."""

    loss: LossName
    where: str
    info: losses.LossInfo | losses.MixInfo | None
    is_stated: bool = True


def choose(written: Layer, flags: Layer, problems: list[str], notes: list[str]) -> tuple[Choice, Choice]:
    """The loss to train, and the one the file alone asks for. Removes the `SPELLINGS` from both layers.

    Flags win over the file, `loss` over `loss_type`; with neither, a file that weighs desirable against
    undesirable completions means kto, and any other dpo.
    """
    from_file = _stated(written, problems)
    from_flags = _stated(flags, problems)
    if from_file is None:
        only_unpaired = set(schema.training("unpaired")) - set(schema.training("paired"))
        telling = next((setting.where for key, setting in written.items() if key in only_unpaired), None)
        name = "kto" if telling else "dpo"
        from_file = Choice(name, "the default", losses.describe(name), is_stated=False)
        if telling and from_flags is None:
            notes.append(f"No loss is named and {telling} is a setting of KTO, so the loss is kto.")
    return from_flags or from_file, from_file


def canonical(name: Any) -> tuple[LossName, losses.LossInfo | losses.MixInfo]:
    """A loss or a mix with canonical names, and its declaration. ValueError if there is no such loss."""
    if isinstance(name, dict):
        info = losses.describe_mix(name)
        if len(info.components) == 1 and info.weights[0] == 1:
            return info.components[0].name, info.components[0]
        return {part.name: weight for part, weight in zip(info.components, info.weights, strict=True)}, info
    info = losses.describe(name)
    return info.name, info


def text(loss: LossName) -> str:
    """A loss in a sentence: ``dpo``, or ``dpo + 0.1·sft``."""
    return loss if isinstance(loss, str) else losses.describe_mix(loss).name


def _stated(layer: Layer, problems: list[str]) -> Choice | None:
    found = {key: layer.pop(key) for key in SPELLINGS if key in layer}
    ours, trl = found.get("loss"), found.get("loss_type")
    choices = []
    if ours is not None and ours.value is not None:
        choices.append(_choice(ours.value, ours.where, problems))
    if trl is not None and trl.value is not None:
        weights = found["loss_weights"].value if "loss_weights" in found else None
        choices.append(_choice(_from_trl(trl.value, weights, problems), trl.where, problems))
    elif "loss_weights" in found and found["loss_weights"].value is not None:
        problems.append(f"{found['loss_weights'].where} weighs nothing: write `loss: {{dpo: 1, sft: 0.1}}`, say.")
    if len(choices) == 2 and choices[0].loss != choices[1].loss and all(choice.info for choice in choices):
        both = " and ".join(f"{choice.where} is {text(choice.loss)}" for choice in choices)
        problems.append(f"{both}: keep one of them.")
    return choices[0] if choices else None


def _choice(name: Any, where: str, problems: list[str]) -> Choice:
    if not isinstance(name, (str, dict)):
        problems.append(
            f"{where} is {messages.shown(name)}: give a name, for instance ipo, or names with weights, for "
            "instance {dpo: 1, sft: 0.1}; one run for each of several losses is what `trl-ext compare` makes."
        )
        return Choice("", where, None)
    if isinstance(name, str) and name.lower() in losses.available():
        name = name.lower()
    elif isinstance(name, str) and name.startswith("{"):
        what = "is no mix of losses" if "}" in name else "lacks its closing brace"
        problems.append(f"{where} is {messages.shown(name)}, which {what}: write {{dpo: 1, sft: 0.1}}, say.")
        return Choice("", where, None)
    elif isinstance(name, str) and "," in name:
        problems.append(
            f"{where} is {messages.shown(name)}: to mix losses give them weights, for instance {{dpo: 1, sft: 0.1}}; one "
            "run for each is what `trl-ext compare` makes."
        )
        return Choice("", where, None)
    try:
        loss, info = canonical(name)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return Choice("", where, None)
    return Choice(loss, where, info)


def _from_trl(names: Any, weights: Any, problems: list[str]) -> Any:
    """`loss_type` and `loss_weights` as a `loss`."""
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return names
    if weights is not None and (not isinstance(weights, list) or len(weights) != len(names)):
        count = len(weights) if isinstance(weights, list) else 1
        problems.append(f"`loss_weights` has {count} weights for {len(names)} losses: give one for each.")
        weights = None
    return dict(zip(names, weights or [1.0] * len(names), strict=True))
