"""Explain the keys of one entry of axolotl's `datasets`, besides those that say where its rows are and what its type is."""

from collections.abc import Callable, Iterator
from typing import Any

from trl_ext.data.formats.messages import ROLE_KEYS, ROLES, TEXT_KEYS
from trl_ext.foreign.axolotl.kind import is_off
from trl_ext.foreign.meaning import Meaning

READ_ELSEWHERE = (
    "path", "name", "split", "type", "data_files", "ds_type", "field", "text_column", "field_messages", "field_chosen",
    "field_rejected", "roles_to_train",
)  # fmt: skip
"""Keys that the source and the format of an entry follow."""

_TEMPLATE = Meaning(
    reason="the tokenizer's own chat template is used", changes="the turns are written otherwise if that is another"
)
_SHARDS = Meaning(
    reason="a shard of a dataset is not chosen",
    changes="all rows are trained on",
    advice="to train on fewer, write `max_train_samples: 1000`, for instance",
)
_EVERY_TOKEN = Meaning(
    reason="single messages and tokens are not chosen for training",
    changes="all messages of the assistant are trained on",
)
_ENDS = Meaning(
    reason="the end token of each message of the assistant is trained on, and others are not",
    changes="other end tokens are trained on than `{value}` says",
)
MEANS: dict[str, Meaning] = {
    "chat_template": _TEMPLATE,
    "chat_template_jinja": _TEMPLATE,
    "shards": _SHARDS,
    "shards_idx": Meaning(reason="only `shards` reads it"),
    "preprocess_shards": Meaning(reason="it says how rows are tokenised, not which"),
    "trust_remote_code": Meaning(reason="code that comes with a dataset is never run"),
    "message_field_training": _EVERY_TOKEN,
    "message_field_training_detail": _EVERY_TOKEN,
    "drop_system_message": Meaning(
        reason="messages are not left out", changes="system messages are part of the prompt"
    ),
    "field_tools": Meaning(reason="tools are read from the column `tools`"),
    "field_thinking": Meaning(reason="reasoning is read from `reasoning_content` or `reasoning`"),
    "template_thinking_key": Meaning(reason="the chat template is given `reasoning_content`"),
    "split_thinking": Meaning(reason="text between <think> marks stays in the message"),
    "step_separator": Meaning(reason="only a process reward model reads it"),
    "max_completion_length": Meaning(reason="only a process reward model reads it"),
    "train_on_last_step_only": Meaning(reason="only a process reward model reads it"),
    "temperature": Meaning(reason="only distillation reads it"),
    "logprobs_field": Meaning(reason="only distillation reads it"),
    "input_transform": Meaning(reason="axolotl does not read it"),
    "input_format": Meaning(reason="axolotl does not read it"),
    "conversation": Meaning(reason="the tokenizer's own chat template is used"),
    "field_human": Meaning(reason="axolotl does not read it"),
    "field_model": Meaning(reason="axolotl does not read it"),
    "skip": Meaning(reason="rows of a stream cannot be skipped", changes="the first rows are trained on too"),
}
"""Keys of an entry, each with what becomes of a value that says something."""

SYNTHETIC = ("length", "sequence_length", "min_input_id", "max_input_id", "seed")
"""Keys of random rows, which axolotl makes to measure its speed."""

READ_HERE = (
    "roles", "message_property_mappings", "message_field_role", "message_field_content", "train_on_eos", "train_on_eot", "revision",
)  # fmt: skip
"""Keys of which only some values have no counterpart."""


def beside_columns(entry: dict[str, Any], place: str, *, is_mixture: bool) -> Iterator[Meaning]:
    """What an entry's other keys mean, where they say something that has no counterpart."""
    for key, value in entry.items():
        if key in READ_ELSEWHERE or is_off(value):
            continue
        found = _meaning(key, value, is_mixture)
        if found is not None:
            yield Meaning(reason=found.reason, changes=found.changes, advice=found.advice, part=f"{place}.{key}")


def _meaning(key: str, value: Any, is_mixture: bool) -> Meaning | None:
    if key in MEANS:
        return None if value in ("tokenizer_default", "main") else MEANS[key]
    if key in ("train_on_eos", "train_on_eot"):
        return None if value == "turn" else Meaning(reason=_ENDS.reason, changes=_ENDS.changes.format(value=value))
    if key == "roles":
        return _unknown(value, _is_known_role, "role")
    if key == "message_property_mappings":
        return _unknown(value, _is_known_property, "property")
    if key in ("message_field_role", "message_field_content"):
        return _unknown({key.rpartition("_")[2]: value}, _is_known_property, "property")
    if key == "revision":
        changes = "the newest revision is read"
        return Meaning(reason="entries of a mixture have no revision", changes=changes) if is_mixture else None
    if key in SYNTHETIC:
        return Meaning(reason="random rows are not trained on", changes="there are no such rows")
    return Meaning(reason="axolotl has no such key of a dataset")


def _is_known_role(source: str, target: str) -> bool:
    return ROLES.get(source, source) == target


def _is_known_property(source: str, target: str) -> bool:
    return source in {"role": ROLE_KEYS, "content": TEXT_KEYS}.get(target, (target,))


def _unknown(given: Any, is_known: Callable[[str, str], bool], what: str) -> Meaning | None:
    """A mapping of names; nothing to say if all of them are recognised."""
    if not isinstance(given, dict):
        return None
    names = {target: sources if isinstance(sources, list) else [sources] for target, sources in given.items()}
    other = [str(s) for target, sources in names.items() for s in sources if not is_known(str(s), target)]
    if not other:
        return None
    return Meaning(
        reason=f"the {what} {', '.join(other)} of a message is not recognised",
        changes="messages with it are dropped, and `trl-ext data` counts them",
        advice="rename it in the data",
    )
