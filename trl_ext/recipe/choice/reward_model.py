"""Read `reward_model_name_or_path`, by which TRL's scripts name a reward model beside `reward_funcs`."""

from trl_ext.methods import Method
from trl_ext.recipe.layers.layer import Layers, Setting

KEY, FUNCTIONS = "reward_model_name_or_path", "reward_funcs"


def take_reward_model(layers: Layers, method: Method) -> None:
    """Put the reward model before the functions, where TRL's scripts put it and `reward_weights` expect it.

    Another kind of training reports the key as unknown.
    """
    if not method.samples_completions:
        return
    for layer in (layers.file, layers.flags):
        named = layer.settings.get(KEY)
        if named is None or not isinstance(named.value, str | None):
            continue
        del layer.settings[KEY]
        if named.value:
            functions = layer.settings.get(FUNCTIONS) or layers.file.settings.get(FUNCTIONS)
            given = functions.value if functions is not None else None
            listed = given if isinstance(given, list) else [given] if given else []
            layer.settings[FUNCTIONS] = Setting([named.value, *listed], named.place)
