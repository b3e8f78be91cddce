"""Give axolotl's keys of the model, the tokenizer and its chat template, and of publishing on the Hub."""

from typing import Any

from trl_ext.foreign.axolotl.kind import REWARD, SUPERVISED, kind, renamed, unless_off
from trl_ext.foreign.common import UNSET
from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning

OWN_TEMPLATE = "the tokenizer's own chat template is used"
BESIDE = "to use another, write it to chat_template.jinja beside the tokenizer"


def _base_model(value: Any, values: Values) -> Meaning:
    if values.get("lora_model_dir") and values.get("adapter"):
        return Meaning(reason="the adapter that is trained further names its base model")
    return UNSET if value is None else Meaning({"model_name_or_path": value})


def _same_as_model(what: str, changes: str) -> Reader:
    """A key that names another source of a part of the model."""

    def read(value: Any, values: Values) -> Meaning:
        if value is None or value == values.get("base_model"):
            return UNSET
        return Meaning(reason=f"{what} is read from the folder of the model", changes=changes)

    return read


def _template(value: Any, values: Values) -> Meaning:
    if value in (None, "tokenizer_default") or str(value).startswith("tokenizer_default_fallback"):
        return Meaning(reason=OWN_TEMPLATE)
    if value == "jinja":
        return Meaning(reason="`chat_template_jinja` has the template")
    changes = f"the turns are those of {value} only if the tokenizer has that template"
    return Meaning(reason=OWN_TEMPLATE, changes=changes, advice=BESIDE)


def _jinja(value: Any, values: Values) -> Meaning:
    is_file = str(value).endswith((".jinja", ".jinja2", ".j2"))
    if is_file and kind(values) in (SUPERVISED, REWARD):
        return Meaning({"chat_template_path": value})
    return Meaning(reason=OWN_TEMPLATE, changes="the turns are written otherwise if that is another", advice=BESIDE)


def _special_tokens(given: Any, values: Values) -> tuple[Meaning, ...] | Meaning:
    if not isinstance(given, dict):
        return UNSET
    return tuple(_special_token(name, token, values) for name, token in given.items() if token is not None) or UNSET


def _special_token(name: str, token: Any, values: Values) -> Meaning:
    part = f"special_tokens.{name}"
    if name == "pad_token":
        return Meaning(reason="padding is masked, so any token serves: the tokenizer's own is used", part=part)
    if name == "eos_token" and kind(values) in (SUPERVISED, REWARD):
        return Meaning({"eos_token": token}, part=part)
    if name == "eos_token":
        return Meaning(
            reason="completions end with the tokenizer's own end token, or with that of the chat template",
            changes=f"completions end with {token} only if that is the same",
            part=part,
        )
    return Meaning(
        reason="the tokenizer keeps its own special tokens",
        changes=f"the {name} is not {token} unless it is so already",
        part=part,
    )


def _tokens(value: Any, values: Values) -> Meaning:
    return Meaning(
        reason="tokens are not added to a tokenizer",
        changes="such a token is split into several",
        advice="add them to the model first, with `tokenizer.add_tokens` and `model.resize_token_embeddings`, and train that model",
    )


def _hub(value: Any, values: Values) -> tuple[Meaning, ...]:
    named = Meaning({"push_to_hub": True, "hub_model_id": value})
    return named, Meaning({"hub_private_repo": True}, "axolotl uploads to a private repository")


def _with_hub(name: str) -> Reader:
    def read(value: Any, values: Values) -> Meaning:
        return Meaning({name: value}) if values.get("hub_model_id") else Meaning(reason="only `hub_model_id` reads it")

    return unless_off(read)


def _model_arguments(given: Any, values: Values) -> Meaning:
    return Meaning({"model_init_kwargs": given}, "they are handed to `from_pretrained`") if given else UNSET


def _trainer_class(value: Any, values: Values) -> Meaning:
    return Meaning(reason="a trainer of your own cannot be named", changes="the trainer of trl-ext is used")


def _unfrozen(value: Any, values: Values) -> Meaning:
    changes = "all weights are trained, which takes the memory for all of them"
    return Meaning(reason="single weights are not chosen", changes=changes, advice="or train a LoRA: `use_peft: true`")


def _frozen_parts(value: Any, values: Values) -> Meaning:
    return Meaning(
        reason="parts of a model are not frozen by name", changes="the vision encoder is trained with the others"
    )


_DERIVED = Meaning(reason="the family of the model is read from its configuration")
_TOKENIZER = Meaning(reason="the class of the tokenizer is read from its files")
_CONFIG = "the configuration is read from the folder of the model, and not changed"

MEANS: dict[str, str | Meaning | Reader] = {
    "base_model": _base_model,
    "base_model_config": _same_as_model("the configuration", "the configuration of the model itself is used"),
    "tokenizer_config": _same_as_model("the tokenizer", "the tokenizer of the model itself is used"),
    "revision_of_model": renamed("model_revision"),
    "model_revision": renamed("model_revision"),
    "model_type": Meaning(reason="the class of the model follows from `trainer` and the model's configuration"),
    "type_of_model": Meaning(reason="the class of the model follows from `trainer` and the model's configuration"),
    "cls_model_config": Meaning(reason="the class of the configuration is read from its file"),
    "model_config": unless_off(Meaning(reason=_CONFIG, changes="the model keeps its own configuration")),
    "overrides_of_model_config": unless_off(Meaning(reason=_CONFIG, changes="the model keeps its own configuration")),
    "model_kwargs": unless_off(_model_arguments),
    "overrides_of_model_kwargs": unless_off(_model_arguments),
    "model_quantization_config": unless_off(
        Meaning(
            reason="the weights are read as they are stored",
            advice="for 4 bits by bitsandbytes, write `load_in_4bit: true`",
        )
    ),
    "model_quantization_config_kwargs": Meaning(reason="only `model_quantization_config` reads it"),
    "quantize_moe_experts": Meaning(reason="`load_in_4bit` also quantises experts"),
    **dict.fromkeys(
        ("tokenizer_type", "tokenizer_use_fast", "tokenizer_legacy", "processor_type", "processor_config"), _TOKENIZER
    ),
    "processor_kwargs": unless_off(
        Meaning(reason="the processor is not changed", changes="images are read with its own settings")
    ),
    "tokenizer_use_mistral_common": unless_off(
        Meaning(reason="the tokenizer of transformers is used", changes="the turns are written by its chat template")
    ),
    "tokenizer_save_jinja_files": Meaning(reason="the chat template is saved with the tokenizer"),
    "chat_template": _template,
    "chat_template_jinja": unless_off(_jinja),
    "default_system_message": unless_off(
        Meaning(reason="the chat template decides about system messages", changes="its own system message is used")
    ),
    "eot_tokens": unless_off(
        Meaning(reason="the chat template writes the end of a turn, and the assistant's is trained on as in axolotl")
    ),
    "special_tokens": _special_tokens,
    "tokens": unless_off(_tokens),
    "added_tokens_overrides": unless_off(_tokens),
    "resize_token_embeddings_to_32x": unless_off(
        Meaning(reason="embeddings keep their size, because no token is added")
    ),
    "mean_resizing_embeddings": unless_off(Meaning(reason="embeddings keep their size, because no token is added")),
    "shrink_embeddings": unless_off(Meaning(reason="embeddings keep their size, because no token is added")),
    "fix_untrained_tokens": unless_off(
        Meaning(reason="embeddings are not changed before training", changes="untrained embeddings stay as they are")
    ),
    "reinit_weights": unless_off(
        Meaning(
            reason="training starts from the weights of the model", changes="it does not start from random weights"
        )
    ),
    "unfrozen_parameters": unless_off(_unfrozen),
    "freeze_mm_modules": unless_off(_frozen_parts),
    "trainer_cls": unless_off(_trainer_class),
    "hub_model_id": unless_off(_hub),
    "hub_strategy": _with_hub("hub_strategy"),
    "hub_revision": _with_hub("hub_revision"),
    "save_safetensors": Meaning(reason="weights are always saved as safetensors"),
    "hf_use_auth_token": Meaning(reason="the login of `hf auth login` is used"),
    "image_size": unless_off(
        Meaning(reason="the processor of the model resizes images", changes="images have its size")
    ),
    "image_resize_algorithm": unless_off(Meaning(reason="the processor of the model resizes images")),
    "role_boundaries": unless_off(Meaning(reason="the chat template marks the messages of the assistant")),
    "base_model_ignore_patterns": Meaning(reason="axolotl no longer reads it"),
    **dict.fromkeys(
        ("is_falcon_derived_model", "is_llama_derived_model", "is_mistral_derived_model", "is_qwen_derived_model"),
        _DERIVED,
    ),
}
"""Every key of this part."""
