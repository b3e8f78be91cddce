"""Find out which of TRL's verbs a file is for. `trl dpo --config FILE` says it in the command, and a recipe says it in the file."""

from collections.abc import Mapping

from trl_ext import foreign
from trl_ext.data.files import names
from trl_ext.demo import EMBEDDED
from trl_ext.recipe import schema
from trl_ext.recipe.layers.layer import Layer, Layers, Setting
from trl_ext.recipe.vocabulary import LOSS_KEYS, hyperparameters
from trl_ext.rl.grpo_losses import LOSS_TYPES

VERBS = {"dpo": True, "kto": False}
"""Values of `trainer` that name a verb of TRL for preferences: whether it trains on pairs."""

_OTHERS = {"SFTConfig": "sft", "RewardConfig": "reward", "trl.RLOOConfig": "rloo", "trl.GRPOConfig": "grpo"}
"""Configurations of TRL's other verbs, with the value of `trainer` for them."""

_NAMES_A_LOSS = {*LOSS_KEYS, "loss_type", "loss_weights", "trainer"}


def is_unnamed(layers: Layers) -> bool:
    """Whether a file names nothing that is trained, and has only settings that TRL's own verbs read.

    Settings of trl-ext, the model and data that come with it, and data files by their name, which TRL does not read, show that
    a file is a recipe. So do the files of other programs, whose keys say what they train.
    """
    file = layers.file.settings
    if (_NAMES_A_LOSS & {*file, *layers.flags.settings}) or layers.variants:
        return False
    data = _value(file, "dataset_name")
    if EMBEDDED in (_value(file, "model_name_or_path"), data) or (isinstance(data, str) and names.is_data_file(data)):
        return False
    dialect = foreign.recognise({key: setting.value for key, setting in file.items()})
    theirs = _fields("DPOConfig", "KTOConfig", *_OTHERS, "ModelConfig", "ScriptArguments", "DatasetMixtureConfig")
    ours = (
        _fields("PairedPreferenceConfig", "UnpairedPreferenceConfig")
        | schema.model().keys()
        | schema.data().keys()
        | schema.fields("RunExtras").keys()
        | {*hyperparameters()}
    ) - theirs
    return dialect is None and not ours & file.keys()


def other_verb(layers: Layers) -> tuple[str, Setting] | None:
    """The trainer of a file with a setting that only one configuration of TRL has, besides those for preferences; or with a loss of
    GRPO.

    Returns:
        The value of `trainer`, and the setting; `None` for any other file.
    """
    named = layers.file.settings.get("loss_type")
    is_lossless = "loss" not in {**layers.file.settings, **layers.flags.settings}
    if named is not None and is_lossless and isinstance(named.value, str) and named.value in LOSS_TYPES:
        return "grpo", named
    if not is_unnamed(layers):
        return None
    for key, setting in layers.file.settings.items():
        owners = [name for name in ("DPOConfig", "KTOConfig", *_OTHERS) if key in schema.fields(name)]
        if len(owners) == 1 and owners[0] in _OTHERS:
            return _OTHERS[owners[0]], setting
    return None


def is_for_dpo(file: Layer) -> bool:
    """Whether a file has a setting that TRL's DPO has and its KTO has not."""
    return bool((_fields("DPOConfig") - _fields("KTOConfig")) & file.settings.keys())


def _fields(*names: str) -> set[str]:
    return {key for name in names for key in schema.fields(name)}


def _value(settings: Mapping[str, Setting], key: str) -> object:
    return settings[key].value if key in settings else None
