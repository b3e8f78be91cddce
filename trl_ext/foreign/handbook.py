"""Give the settings of the alignment handbook that are not TRL's."""

from typing import Any

from trl_ext.foreign.common import UNSET, of
from trl_ext.foreign.dialect import Dialect, Values, has
from trl_ext.foreign.handbook_data import MEANS_OF_DATA
from trl_ext.foreign.meaning import Meaning


def _template(template: Any, values: Values) -> Meaning:
    if not template:
        return UNSET
    is_sft = values.get("trainer") == "sft" or "max_seq_length" in values
    where = (
        "give it as `chat_template_path: FILE`" if is_sft else "save it with the tokenizer as `chat_template.jinja`"
    )
    return Meaning(
        reason="the tokenizer's own chat template is used",
        changes=f"to train with this one, write it to a file and {where}",
    )


def _sft_length(value: Any, values: Values) -> Meaning:
    """Only the handbook's files for SFT have `max_seq_length`."""
    named = {} if values.get("trainer") else {"trainer": "sft"}
    return Meaning(named | {"max_length": value}) if value is not None else UNSET


def _revision(value: Any) -> Meaning:
    return (
        UNSET
        if value in (None, "main")
        else Meaning(reason="results are pushed to the branch `main`", changes=f"not to {value}")
    )


def _dataset_kwargs(given: Any) -> Meaning:
    """TRL once read `add_special_tokens` and `append_concat_token` too."""
    if not isinstance(given, dict):
        return UNSET if given is None else Meaning({"dataset_kwargs": given})
    read = {key: value for key, value in given.items() if key == "skip_prepare_dataset"}
    if read == given:
        return Meaning({"dataset_kwargs": given})
    reason = "TRL reads only `skip_prepare_dataset` of it. The chat template writes the special tokens"
    return Meaning({"dataset_kwargs": read} if read else {}, reason)


HANDBOOK = Dialect(
    "the alignment handbook",
    {
        **MEANS_OF_DATA,
        "chat_template": _template,
        "dataset_kwargs": of(_dataset_kwargs),
        "max_seq_length": _sft_length,
        "preprocessing_num_workers": "dataset_num_proc",
        "auto_insert_empty_system_msg": Meaning(reason="the chat template decides about system messages"),
        "hub_model_revision": of(_revision),
    },
    has("dataset_mixer", "dataset_mixture"),
)
