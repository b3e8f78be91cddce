"""Unfold `loss_kwargs`, so that hyperparameters are keys of their own however they are written."""

from trl_ext.recipe.layers.layer import Layers, Setting
from trl_ext.recipe.problems import Problems
from trl_ext.recipe.vocabulary import hyperparameters
from trl_ext.support import messages


def unfold_loss_kwargs(layers: Layers, problems: Problems) -> None:
    """Make the hyperparameters in `loss_kwargs` keys of their own; only those for one part of a mix stay in it."""
    known = hyperparameters()
    for layer in layers:
        given = layer.settings.pop("loss_kwargs", None)
        if given is None or given.value is None:
            continue
        if isinstance(given.value, dict):
            _unfold(given, layer.settings, known, problems)
        else:
            shown = messages.shown(given.value)
            problems.add(given.place, f"is {shown}. Give a mapping, for instance `loss_kwargs: {{beta: 0.1}}`.")


def _unfold(given: Setting, settings: dict[str, Setting], known: tuple[str, ...], problems: Problems) -> None:
    by_part = {}
    for key, value in ((str(key), value) for key, value in given.value.items()):
        place = given.place.of_entry(key)
        if isinstance(value, dict):
            by_part[key] = {str(name): entry for name, entry in value.items()}
        elif key in settings and settings[key].value != value:
            other = settings[key]
            problems.add(other.place, f"is {other.value}, and in {given.place} it is {value}. Keep one of them.")
        elif key not in known:
            near = messages.nearest(key, known)
            hint = f"did you mean `{near[0]}`?" if near else "`trl-ext losses` lists them."
            problems.add(place, f"is not a hyperparameter of any loss: {hint}")
        else:
            settings[key] = Setting(value, place)
    if by_part:
        settings["loss_kwargs"] = Setting(by_part, given.place)
