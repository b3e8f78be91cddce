"""Sort the fields of TRL's configurations by what becomes of them here, for `docs/compatibility.md`.

A verdict is what the rules of `trl_ext.checks` say about a recipe with the setting (`docs.probes`), and for settings that they
accept, whether our configuration declares the field anew. `tests/docs/test_compatibility.py` compares the fields that both
trainers read while they train.
"""

import dataclasses
import re
from typing import Any, NamedTuple

import trl

from docs import probes
from trl_ext.methods import METHODS, imported

COUNTERPARTS = {
    "DPOConfig": "paired",
    "KTOConfig": "unpaired",
    "RLOOConfig": "rloo",
    "GRPOConfig": "grpo",
    "RewardConfig": "reward",
    "SFTConfig": "sft",
}
"""TRL's configurations, and the kind of training here that takes their settings."""

SAME, EXTENDED, REFUSED, NO_EFFECT = "same", "extended", "refused", "no effect"

UNREAD = re.compile(r"\b(?:has|have) no effect\b")
"""How notes say that a setting is not read."""

PLACE = re.compile(r"(`[^`]+`) \(lines? \d+\)")


class Verdict(NamedTuple):
    """What becomes of one setting, and the reason in a sentence; empty for a setting that is the same."""

    column: str
    why: str


def verdicts(config: str) -> dict[str, Verdict]:
    """The verdict on every field of one of TRL's configurations, by field."""
    method = COUNTERPARTS[config]
    ours = declared_here(imported(METHODS[method].config))
    return {
        field.name: verdict(method, field, ours.get(field.name)) for field in dataclasses.fields(getattr(trl, config))
    }


def verdict(method: str, theirs: dataclasses.Field, ours: dataclasses.Field | None) -> Verdict:
    """The verdict on a field of TRL's.

    Args:
        method: The kind of training here, a key of `METHODS`.
        theirs: TRL's field.
        ours: Ours of the same name, where our configuration declares it itself.
    """
    key = theirs.name
    found = probes.outcomes(method, key)
    refused = [outcome for outcome in found if outcome.refusals]
    if refused:
        values = "" if len(refused) == len(found) else f"{_listed([outcome.value for outcome in refused])} only. "
        return Verdict(REFUSED, values + _without_place(refused[0].refusals[0]))
    unread = [note for outcome in found for note in outcome.notes if UNREAD.search(note) and f"`{key}`" in note]
    if unread:
        return Verdict(NO_EFFECT, _without_place(unread[0]))
    return Verdict(SAME, "") if ours is None else Verdict(EXTENDED, _extension(ours, theirs))


def declared_here(config: type) -> dict[str, dataclasses.Field]:
    """The fields that our classes of a configuration declare, new ones included."""
    ours = {
        name
        for part in config.__mro__
        if part.__module__.startswith("trl_ext.")
        for name in vars(part).get("__annotations__", ())
    }
    return {field.name: field for field in dataclasses.fields(config) if field.name in ours}


def page() -> str:
    """The verdicts on all fields, a section for each configuration."""
    return "\n".join(line for config in COUNTERPARTS for line in _section(config)).rstrip()


def _section(config: str) -> list[str]:
    method, found = METHODS[COUNTERPARTS[config]], verdicts(config)
    same = [f"`{name}`" for name, verdict in found.items() if verdict.column == SAME]
    lines = [
        f"## `{config}`",
        "",
        f"Settings of `{method.config.partition(':')[2]}`, for {method.title}.",
        "",
        f"**Same** ({len(same)}): {', '.join(same)}.",
        "",
    ]
    for column in (EXTENDED, REFUSED, NO_EFFECT):
        rows = {name: verdict.why for name, verdict in found.items() if verdict.column == column}
        if rows:
            lines += [f"| {column} ({len(rows)}) | {'what' if column == EXTENDED else 'why'} |", "|---|---|"]
            lines += [f"| `{name}` | {why.replace('|', chr(92) + '|')} |" for name, why in rows.items()]
            lines += [""]
    return lines


def _extension(ours: dataclasses.Field, theirs: dataclasses.Field) -> str:
    """What our field does, and its default where that is another."""
    what = str(ours.metadata.get("help", ""))
    was, now = _default(theirs), _default(ours)
    return what if was == now or "efault" in what else f"{what} Default: {_plain(now)}; TRL's is {_plain(was)}."


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _plain(value: Any) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else 'null' if value is None else value}`"


def _listed(values: list[Any]) -> str:
    return ", ".join(map(_plain, values))


def _without_place(sentence: str) -> str:
    return PLACE.sub(r"\1", sentence)
