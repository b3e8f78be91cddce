"""Read values of a LLaMA-Factory file that several of its keys depend on."""

import math
from collections.abc import Iterable
from typing import Any

from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning

STAGES = ("pt", "sft", "rm", "ppo", "dpo", "kto", "orpo")
"""The last is of older releases."""


def stage(values: Values) -> str:
    """The kind of training. In a recipe, which has none, that of its `trainer` and `loss`."""
    if values.get("stage"):
        return str(values["stage"])
    asked = str(values.get("trainer") or values.get("loss"))
    return {"sft": "sft", "reward": "rm", "ppo": "ppo", "kto": "kto"}.get(asked, "dpo")


def tuning(values: Values) -> str:
    """Which weights are trained: lora, full, freeze or oft."""
    return str(values.get("finetuning_type") or "lora")


def names(value: Any) -> list[str]:
    """The items of a list, or of a text with commas."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    return [text for item in items if item is not None and (text := str(item).strip())]


def number(value: Any) -> float | None:
    """A finite number, also one written as text; `None` for anything else."""
    try:
        found = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found is not None and math.isfinite(found) else None


def continues_adapter(values: Values) -> bool:
    """Whether an adapter is trained further, instead of a new one."""
    return len(names(values.get("adapter_name_or_path"))) == 1 and not values.get("create_new_adapter")


def unread(values: Values) -> Meaning:
    """A key that LLaMA-Factory does not read in the stage of the file."""
    return Meaning(reason=f"LLaMA-Factory does not read it in stage {stage(values)}")


def no_such(there: Iterable[str]) -> Meaning:
    """A value that LLaMA-Factory refuses."""
    reason = f"LLaMA-Factory has no such value. It has {', '.join(there)}"
    return Meaning(reason=reason, advice="correct it", prevents=True)


def wrong(reason: str) -> Meaning:
    """A value that LLaMA-Factory cannot read either."""
    return Meaning(reason=reason, advice="correct it", prevents=True)


def only_in(stages: str | tuple[str, ...], read: Reader) -> Reader:
    """A reader for some stages; in the others the key is not read."""
    wanted = (stages,) if isinstance(stages, str) else stages
    return lambda value, values: read(value, values) if stage(values) in wanted else unread(values)


def renamed_in(stages: str | tuple[str, ...], setting: str) -> Reader:
    """Another name for a setting, in some stages."""
    return only_in(stages, lambda value, values: Meaning({setting: value}) if value is not None else UNSET)


def lost(reason: str, changes: str) -> Reader:
    """A switch that has no counterpart where it is on."""
    return lambda on, values: Meaning(reason=reason, changes=changes) if on else OFF


OFF = Meaning(reason="it is off, as here")
UNSET = Meaning(reason="it is empty, so the default applies")
