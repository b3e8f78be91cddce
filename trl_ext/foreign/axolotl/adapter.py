"""Give axolotl's keys of the adapter and of quantisation."""

from typing import Any

from trl_ext.foreign.axolotl.kind import is_axolotl, is_off, unless_off
from trl_ext.foreign.common import DEFAULT, UNSET, continued, initialisation, of
from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning

KINDS = ("lora", "qlora")
UNREAD = Meaning(reason="without `adapter`, axolotl trains all weights and does not read it")
UNQUANTISED = Meaning(
    reason="axolotl refuses it without `adapter`: quantised weights are not trained",
    changes="16-bit weights are trained",
)
ALL = "all-linear"


def has_adapter(values: Values) -> bool:
    """Whether a LoRA is trained. An empty `adapter` trains all weights."""
    return values.get("adapter") in KINDS or not is_axolotl(values)


def in_4bit(values: Values) -> bool:
    """Whether the base is loaded in 4 bits: axolotl does so for `adapter: qlora` alone."""
    return values.get("adapter") == "qlora" and bool(values.get("load_in_4bit", True))


def of_adapter(read: str | Reader) -> Reader:
    """A reader of a key that has no effect where all weights are trained; a name stands for a setting."""

    def read_key(value: Any, values: Values) -> Any:
        if is_off(value) and value != 0:
            return UNSET if value is None else DEFAULT
        if not has_adapter(values):
            return UNREAD
        if values.get("lora_model_dir") and read is not continue_from:
            return Meaning(reason="the adapter that is trained further has its own")
        return Meaning({read: value}) if isinstance(read, str) else read(value, values)

    return read_key


def _adapter(value: Any, values: Values) -> Meaning:
    if is_off(value):
        return Meaning(
            reason="an empty `adapter` trains all weights, in 16 bits, and so does a recipe without `use_peft`"
        )
    if value in KINDS:
        bits = {"load_in_4bit": True} if in_4bit(values) else {}
        if values.get("lora_model_dir"):
            return Meaning(bits, "`model_name_or_path` names the adapter that is trained further")
        return Meaning({"use_peft": True} | bits)
    return Meaning(
        {"use_peft": True},
        f"the adapter {value} is not available",
        "a LoRA is trained instead",
        advice="train this file with axolotl, or train a LoRA: `use_peft: true`",
    )


def continue_from(folder: Any, values: Values) -> Meaning:
    """An adapter that is trained further."""
    return continued(folder)


def _load_in_4bit(on: Any, values: Values) -> Meaning:
    if not on:
        return DEFAULT
    if values.get("adapter") == "lora":
        return Meaning(
            reason="axolotl quantises to 4 bits for the adapter qlora only, so this file trains a LoRA on 16-bit weights"
        )
    return Meaning({"load_in_4bit": True}) if has_adapter(values) else UNQUANTISED


def _load_in_8bit(on: Any, values: Values) -> Meaning:
    if not on:
        return DEFAULT
    if values.get("adapter") == "qlora":
        return Meaning(reason="axolotl refuses it for the adapter qlora, which has 4 bits")
    return Meaning({"load_in_8bit": True}) if has_adapter(values) else UNQUANTISED


def _dropout(value: Any, values: Values) -> Meaning:
    return of_adapter("lora_dropout")(value or 0.0, values)


def _linear(on: Any, values: Values) -> Meaning:
    return Meaning({"lora_target_modules": ALL})


def _modules(value: Any, values: Values) -> Meaning | tuple[Meaning, ...]:
    names = list(value) if isinstance(value, (list, tuple)) else [value]
    if values.get("lora_target_linear"):
        beside = [
            name for name in names if str(name).rpartition(".")[2] in ("lm_head", "embed_tokens", "embed_in", "wte")
        ]
        if not beside:
            return Meaning(
                reason=f"`lora_target_linear` already selects every linear layer: `lora_target_modules: {ALL}`"
            )
        return Meaning(
            reason=f"`{ALL}` cannot be combined with {', '.join(map(str, beside))}",
            changes=f"{', '.join(map(str, beside))} has no LoRA",
        )
    kept = [name for name in names if str(name).rpartition(".")[2] != "lm_head"]
    if not kept:
        return Meaning(reason="lm_head is read directly to compute log-probabilities", changes="lm_head has no LoRA")
    if len(kept) < len(names):
        return Meaning(
            {"lora_target_modules": kept},
            "lm_head is read directly to compute log-probabilities",
            "lm_head has no LoRA",
        )
    return Meaning({"lora_target_modules": names})


def _bnb(given: Any, values: Values) -> tuple[Meaning, ...] | Meaning:
    """The mapping handed to BitsAndBytesConfig."""
    if not isinstance(given, dict) or not in_4bit(values):
        return Meaning(reason="axolotl reads it for 4 bits only")
    names = {
        "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
        "bnb_4bit_quant_type": "bnb_4bit_quant_type",
        "bnb_4bit_compute_dtype": "bnb_4bit_compute_dtype",
        "bnb_4bit_quant_storage": "bnb_4bit_quant_storage",
    }
    found = [
        Meaning({names[key]: value}, part=f"bnb_config_kwargs.{key}") for key, value in given.items() if key in names
    ]
    found += [
        Meaning(reason="it has no effect on 4-bit weights", part=f"bnb_config_kwargs.{key}")
        for key in given
        if key not in names
    ]
    return tuple(found) or DEFAULT


def _peft(given: Any, values: Values) -> Meaning:
    return initialisation("loftq") if isinstance(given, dict) and given.get("loftq_config") else DEFAULT


def defaults(values: Values) -> dict[str, Any]:
    """Axolotl's dropout is 0, and it quantises the constants of 4-bit weights too."""
    found: dict[str, Any] = {}
    if has_adapter(values) and not values.get("lora_model_dir"):
        found["lora_dropout"] = 0.0
    if in_4bit(values):
        given = values.get("bnb_config_kwargs")
        if not (isinstance(given, dict) and "bnb_4bit_use_double_quant" in given):
            found["bnb_config_kwargs"] = {
                **(given if isinstance(given, dict) else {}),
                "bnb_4bit_use_double_quant": True,
            }
    return found


def _lacks(what: str, changes: str) -> Reader:
    return of_adapter(unless_off(Meaning(reason=what, changes=changes)))


MEANS: dict[str, str | Meaning | Reader] = {
    "adapter": _adapter,
    "load_in_4bit": _load_in_4bit,
    "load_in_8bit": _load_in_8bit,
    "bnb_config_kwargs": unless_off(_bnb),
    "lora_model_dir": of_adapter(continue_from),
    "lora_r": of_adapter("lora_r"),
    "lora_alpha": of_adapter("lora_alpha"),
    "lora_dropout": _dropout,
    "lora_target_linear": of_adapter(_linear),
    "lora_target_modules": of_adapter(_modules),
    "lora_target_parameters": of_adapter("lora_target_parameters"),
    "lora_modules_to_save": of_adapter("lora_modules_to_save"),
    "lora_fan_in_fan_out": of_adapter(of(lambda _: Meaning(reason="PEFT finds it out from the layers"))),
    "peft_use_dora": of_adapter("use_dora"),
    "peft_use_rslora": of_adapter("use_rslora"),
    "peft_init_lora_weights": of_adapter(of(initialisation)),
    "peft": of_adapter(_peft),
    "peft_autocast_adapter_dtype": Meaning(reason="adapter weights are trained in float32"),
    "lora_on_cpu": Meaning(reason="it says where an adapter is loaded for merging"),
    "merge_lora": Meaning(reason="`trl-ext merge` merges a finished run"),
    "merge_method": Meaning(reason="`trl-ext merge` merges a finished run"),
    "lora_rank_pattern": _lacks("one rank holds for all layers: `lora_r`", "all layers have the same rank"),
    "lora_alpha_pattern": _lacks("one alpha holds for all layers: `lora_alpha`", "all layers have the same alpha"),
    "peft_layers_to_transform": _lacks("a LoRA is put on all layers", "the other layers are trained too"),
    "peft_layers_pattern": _lacks("a LoRA is put on all layers", "the other layers are trained too"),
    "peft_layer_replication": _lacks("layers cannot be replicated", "the model keeps its number of layers"),
    "peft_trainable_token_indices": _lacks(
        "single token embeddings cannot be chosen",
        "these tokens are not trained. `lora_modules_to_save` trains whole embeddings",
    ),
    "peft_ensure_weight_tying": _lacks("there is no setting for it", "PEFT's default holds for weights that are tied"),
    "loraplus_lr_ratio": _lacks("both factors of a LoRA have one learning rate", "this is LoRA, not LoRA+"),
    "loraplus_lr_embedding": Meaning(reason="only LoRA+ reads it"),
    "relora": unless_off(Meaning(reason="ReLoRA is not available", changes="one LoRA is trained, without restarts")),
    **dict.fromkeys(
        ("relora_prune_ratio", "relora_prune_method", "relora_cpu_offload"), Meaning(reason="only ReLoRA reads it")
    ),
    **dict.fromkeys(
        ("jagged_restart_steps", "jagged_restart_warmup_steps", "jagged_restart_anneal_steps"),
        unless_off(Meaning(reason="the learning rate has no restarts", changes="the schedule runs through once")),
    ),
    "gptq": unless_off(
        Meaning(
            reason="GPTQ weights are not trained on here",
            changes="the model that is named has to hold 16-bit weights",
            advice="name the model without GPTQ, and write `load_in_4bit: true`",
        )
    ),
    "qlora_sharded_model_loading": Meaning(reason="it says how several processes load the weights"),
}
"""Every key of this part."""
