"""Say what an axolotl file trains, and how sentences and readers of its keys are put together."""

from collections.abc import Callable, Sequence
from typing import Any

from trl_ext.foreign.common import DEFAULT, UNSET
from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning

ON_PAIRS = ("dpo", "ipo", "orpo", "simpo")
LOSSES = (*ON_PAIRS, "kto")
"""Values of `rl` that are losses here."""

SUPERVISED = "sft"
REWARD = "reward"


_MARKS = {
    "sequence_len", "micro_batch_size", "lora_target_linear", "dataset_prepared_path", "val_set_size", "sample_packing",
    "base_model_config", "pad_to_sequence_len", "rl_beta", "evals_per_epoch", "saves_per_epoch", "lora_model_dir",
    "train_on_inputs", "eval_sample_packing", "pretraining_dataset", "orpo_alpha", "kto_desirable_weight",
}  # fmt: skip
"""Keys that no other program has."""


def is_axolotl(values: Values) -> bool:
    """Whether a file is one of axolotl. In other files, a key of axolotl is explained by itself."""
    found = len(_MARKS & set(values))
    return found >= 2 or (
        "base_model" in values and bool(found or {"adapter", "rl"} & set(values) or _has_types(values))
    )


def _has_types(values: Values) -> bool:
    """Whether an entry of `datasets` says how its rows become text."""
    entries = values.get("datasets")
    return isinstance(entries, list) and any(isinstance(entry, dict) and "type" in entry for entry in entries)


def kind(values: Values) -> str:
    """What is trained: a value of `rl`, "reward", "prm", "diffusion" or "sft"; in other files, what they name."""
    if values.get("rl"):
        return str(values["rl"]).lower()
    if not is_axolotl(values):
        return str(values.get("trainer") or values.get("loss") or "dpo")
    if values.get("reward_model"):
        return REWARD
    if values.get("process_reward_model"):
        return "prm"
    return "diffusion" if values.get("diffusion") or "DiffusionPlugin" in str(values.get("plugins")) else SUPERVISED


def section(values: Values, key: str) -> dict[str, Any]:
    """A nested mapping of the file, such as `trl`; empty where it is absent or has another type."""
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def is_off(value: Any) -> bool:
    """Whether a value says nothing: empty, or switched off."""
    return value is None or value is False or value in ("", [], {})


def unless_off(meaning: Meaning | Reader) -> Reader:
    """A reader that says nothing about a key that is empty or switched off."""

    def read(value: Any, values: Values) -> Meaning | Sequence[Meaning]:
        if is_off(value):
            return UNSET if value is None else DEFAULT
        return meaning if isinstance(meaning, Meaning) else meaning(value, values)

    return read


def only_for(kinds: Sequence[str], read: Reader, what: str) -> Reader:
    """A reader of a key that axolotl reads for some kinds of training only, which `what` names in a sentence."""

    def for_these(value: Any, values: Values) -> Meaning | Sequence[Meaning]:
        if value is not None and is_axolotl(values) and kind(values) not in kinds:
            return Meaning(reason=f"axolotl reads it for {what} only")
        return read(value, values)

    return for_these


def renamed(name: str, reason: str = "", changes: str = "") -> Callable[[Any, Values], Meaning]:
    """A reader of a key that has another name here, for values that say something."""
    return lambda value, values: UNSET if value is None else Meaning({name: value}, reason, changes)
