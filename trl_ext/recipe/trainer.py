"""`trainer`: what a recipe trains other than a loss on preferences."""

from trl_ext import losses
from trl_ext.recipe.settings import Layer, Setting
from trl_ext.recipe.vocabulary import TRAINERS
from trl_ext.support import messages


def choose(written: Layer, flags: Layer, problems: list[str]) -> str | None:
    """The value of `trainer`, a flag winning over the file, or `None` for preferences. Removes it from both layers.

    A name there is not is a problem, and the recipe is then judged as one that trains on preferences.
    """
    found = [layer.pop("trainer", None) for layer in (written, flags)]
    value, where = found[1] or found[0] or Setting(None, "")
    if value is None or (isinstance(value, str) and value in TRAINERS):
        return value
    if isinstance(value, str) and value in losses.available():
        problems.append(f"{where} is {value}, which is a loss: write `loss: {value}`.")
    else:
        allowed = messages.one_of(str(value), tuple(TRAINERS))
        problems.append(f"{where} is {messages.shown(value)}: {allowed} Without it, `loss` is trained on preferences.")
    return None
