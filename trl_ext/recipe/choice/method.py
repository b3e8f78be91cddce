"""Choose the method: the value of `trainer`, or a loss on preferences."""

from trl_ext import losses, methods
from trl_ext.methods import TRAINERS, Method
from trl_ext.recipe.choice.trl_file import VERBS, other_verb
from trl_ext.recipe.layers.layer import Layers, Setting
from trl_ext.recipe.problems import Problems
from trl_ext.support import messages


def choose_method(layers: Layers, problems: Problems) -> Method:
    """The method that `trainer` names, in the flags or else in the file; removes `trainer` from both layers.

    Without `trainer` it is a loss on pairs, until the loss is chosen: `dpo` and `kto` are put into `layers.verb` for it. A file
    for TRL without a loss is for the verb whose settings it has. An unknown name is a problem; the rest of the recipe is
    then checked as one without `trainer`.
    """
    given = [layer.settings.pop("trainer", None) for layer in (layers.flags, layers.file)]
    value, place = next(filter(None, given), (None, None))
    if isinstance(value, str) and value in TRAINERS:
        return methods.of(value)
    if isinstance(value, str) and value in VERBS:
        layers.verb = Setting(value, place)
    elif isinstance(value, str) and value in losses.available():
        problems.add(place, f"is {value}, which is a loss. Write `loss: {value}`.")
    elif value is not None:
        allowed = messages.one_of(str(value), (*VERBS, *TRAINERS))
        problems.add(place, f"is {messages.shown(value)}: {allowed} Without `trainer`, a preference loss is trained.")
    elif told := other_verb(layers):
        name, setting = told
        problems.notes.append(
            f"The recipe names no `trainer` and no loss on preferences. {setting.place} belongs to TRL's `{name}` alone, so this "
            f"trains `trainer: {name}`."
        )
        return methods.of(name)
    return methods.of(None)
