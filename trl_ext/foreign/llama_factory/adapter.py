"""Read which weights a LLaMA-Factory file trains: all, an adapter, or some layers; and how the base is quantised."""

from typing import Any

from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.llama_factory.file_values import (
    UNSET,
    continues_adapter,
    lost,
    names,
    no_such,
    number,
    stage,
    tuning,
)  # fmt: skip
from trl_ext.foreign.meaning import Meaning

FROZEN = ("freeze_vision_tower", "freeze_multi_modal_projector")
OF_IMAGES = ("image_max_pixels", "image_min_pixels", "video_max_pixels", "video_min_pixels")
"""Keys that a file has if its model reads images."""
OF_FULL = Meaning(reason="all weights are trained and there is no adapter, so it has no effect")
OF_ITS_OWN = Meaning(reason="the adapter that is trained further has its own")
START = "LoRA starts with PEFT's default, whose product is zero, so that the policy starts as the base. PiSSA changes the base's weights"


def _tuning(kind: Any, values: Values) -> Meaning:
    if kind == "full" and stage(values) == "ppo":
        return Meaning(
            {"use_peft": True},
            "PPO keeps policy, reference and critic on one base, distinguished by adapters",
            "a LoRA is trained, not all weights",
        )
    if kind == "full":
        return Meaning({"use_peft": False}, "all weights are trained")
    if continues_adapter(values):
        return Meaning(reason="the adapter in `model_name_or_path` is trained further")
    if kind == "lora":
        return Meaning({"use_peft": True})
    if kind == "freeze":
        layers = values.get("freeze_trainable_layers", 2)
        which = f"the first {str(layers).lstrip('-')}" if str(layers).startswith("-") else f"the last {layers}"
        trained = "the layers of `use_llama_pro`" if values.get("use_llama_pro") else f"the weights of {which} layers"
        return Meaning(
            {"use_peft": True},
            "layers cannot be frozen one by one: a LoRA is trained, or all weights (`use_peft: false`)",
            f"a LoRA on all layers is trained, not {trained}",
        )
    if kind == "oft":
        return Meaning(
            {"use_peft": True}, "the adapter is a LoRA: OFT is not supported", "a LoRA is trained, not an OFT adapter"
        )
    return no_such(["lora", "full", "freeze", "oft"])


def _of_a_new_lora(setting: str, read: Any = lambda value: value) -> Reader:
    """A setting of a new LoRA."""

    def meaning(value: Any, values: Values) -> Meaning:
        if tuning(values) == "full":
            return OF_FULL
        if continues_adapter(values):
            return OF_ITS_OWN
        return UNSET if value is None or value is False else Meaning({setting: read(value)})

    return meaning


def _alpha(value: Any, values: Values) -> Meaning:
    """Empty: twice the rank."""
    rank = number(values.get("lora_rank"))
    return _of_a_new_lora("lora_alpha")(value or int(2 * (8 if rank is None else rank)), values)


def _targets(value: Any, values: Values) -> Meaning:
    if names(value) != ["all"]:
        return _of_a_new_lora("lora_target_modules", names)(value, values)
    found = _of_a_new_lora("lora_target_modules", lambda value: "all-linear")(value, values)
    is_frozen = any(values.get(key, True) for key in FROZEN)
    if found.settings and is_frozen and any(key in values for key in (*FROZEN, *OF_IMAGES)):
        return Meaning(
            found.settings,
            changes="the vision tower and its projector get the adapter too; LLaMA-Factory leaves them out",
        )
    return found


def _continued(value: Any, values: Values) -> Meaning:
    adapters = names(value)
    if not adapters:
        return UNSET
    if len(adapters) > 1 or values.get("create_new_adapter"):
        merged = adapters if values.get("create_new_adapter") else adapters[:-1]
        which = "this adapter" if len(adapters) == 1 else "the others" if merged != adapters else "them"
        return Meaning(
            reason="a base model gets one new adapter" if merged == adapters else "one adapter can be trained on",
            advice=f"merge {which} into the base model first (`trl-ext merge ADAPTER --output DIR`), and name the result in "
            "`model_name_or_path`",
            changes=f"the base model is trained without {', '.join(merged)}",
        )
    folder = values.get("adapter_folder")
    path = f"{adapters[0].rstrip('/')}/{folder}" if folder else adapters[0]
    changes = ""
    if stage(values) in ("dpo", "kto", "ppo"):
        changes = (
            "the reference is this adapter as it is at the start; in LLaMA-Factory it is the base model without it"
        )
    return Meaning(
        {"model_name_or_path": path},
        "this adapter is trained further, and its base model is named in the adapter",
        changes,
    )


def _model(value: Any, values: Values) -> Meaning | tuple[()]:
    """The model, unless an adapter is trained further: it names its base."""
    if continues_adapter(values):
        return Meaning(reason="the adapter that is trained further names its base model")
    return ()


def _new_adapter(on: Any, values: Values) -> Meaning:
    if on and names(values.get("adapter_name_or_path")):
        return Meaning(
            reason="a base model gets a new adapter. Merge the old one into it first (`trl-ext merge ADAPTER --output DIR`)"
        )
    return Meaning(reason="a base model gets a new adapter, and an adapter in `model_name_or_path` is trained further")


def _bits(value: Any, values: Values) -> Meaning:
    if not value:
        return Meaning(reason="it is empty: the base is not quantised, as here")
    method = str(values.get("quantization_method") or "bnb").lower()
    if str(value) in ("4", "8") and method in ("bnb", "bitsandbytes"):
        return Meaning({f"load_in_{value}bit": True})
    if str(value) in ("4", "8"):
        return Meaning({f"load_in_{value}bit": True}, *_other_method(method, value))
    return Meaning(
        reason="bitsandbytes loads weights in 4 or 8 bits", changes=f"the base is not quantised to {value} bits; `load_in_4bit: true` does 4"
    )  # fmt: skip


def _other_method(method: str, bits: Any) -> tuple[str, str]:
    kind = "4 bits (nf4)" if str(bits) == "4" else "8 bits (LLM.int8)"
    return "weights are quantised by bitsandbytes", f"the base is in bitsandbytes' {kind}, not in {method.upper()}"


def _method(value: Any, values: Values) -> Meaning:
    if not values.get("quantization_bit"):
        return Meaning(reason="nothing is quantised without `quantization_bit`")
    if str(value or "bnb").lower() in ("bnb", "bitsandbytes"):
        return Meaning(reason="weights are quantised by bitsandbytes, as here")
    return Meaning(*({},), *_other_method(str(value), values["quantization_bit"]))


def _of_four_bits(setting: str) -> Reader:
    def meaning(value: Any, values: Values) -> Meaning:
        if str(values.get("quantization_bit")) != "4":
            return Meaning(reason="only a base in 4 bits reads it")
        return UNSET if value is None else Meaning({setting: value})

    return meaning


MEANS: dict[str, str | Meaning | Reader] = {
    "finetuning_type": _tuning,
    "model_name_or_path": _model,
    "adapter_name_or_path": _continued,
    "adapter_folder": lambda value, values: UNSET if not value else Meaning(reason="it is part of the path of the adapter"),
    "create_new_adapter": _new_adapter,
    "lora_rank": _of_a_new_lora("lora_r"),
    "lora_alpha": _alpha,
    "lora_dropout": _of_a_new_lora("lora_dropout"),
    "lora_target": _targets,
    "additional_target": _of_a_new_lora("lora_modules_to_save", names),
    "use_rslora": _of_a_new_lora("use_rslora"),
    "use_dora": _of_a_new_lora("use_dora"),
    "loraplus_lr_ratio": lost("all weights of the adapter have one learning rate", "LoRA+ is off: its B factors learn at `learning_rate`"),
    "loraplus_lr_embedding": Meaning(reason="only LoRA+ reads it"),
    "pissa_init": lost(START, "the adapter starts at zero, not at the base's largest singular vectors"),
    "pissa_iter": Meaning(reason="only PiSSA reads it"),
    "pissa_convert": Meaning(reason="only PiSSA reads it"),
    **dict.fromkeys(
        ("oft_rank", "oft_block_size", "oft_target", "module_dropout"), Meaning(reason="only an OFT adapter reads it")
    ),
    **dict.fromkeys(
        ("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules", "num_layer_trainable", "name_module_trainable"),
        Meaning(reason="only the kind freeze of `finetuning_type` reads it"),
    ),
    "use_llama_pro": lost("layers cannot be frozen one by one", "the adapter is on all layers, not on the expanded ones only"),
    "quantization_bit": _bits,
    "quantization_method": _method,
    "quantization_type": _of_four_bits("bnb_4bit_quant_type"),
    "double_quantization": _of_four_bits("use_bnb_nested_quant"),
    "quantization_device_map": Meaning(reason="the base is loaded onto the device that trains it"),
}  # fmt: skip
