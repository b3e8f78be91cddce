"""Load models and describe their quantisation as TRL does.

These functions do what those of `trl.trainer.utils` do. That module imports pandas and datasets, which takes longer than loading a
small model, and a verb that only samples needs neither.
"""

from typing import Any

from accelerate import PartialState
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from trl import ModelConfig

from trl_ext.build import architecture, quantised_base
from trl_ext.experts import quantizer
from trl_ext.report.dequantised import DEQUANTISED_BY


def load(path: str, kind: type | None = None, compute_dtype: Any = None, **init: Any) -> PreTrainedModel:
    """Load a model, by default of the architecture that its configuration names.

    Args:
        path: A folder, or a name on the Hub.
        kind: The class to load it with.
        compute_dtype: Of the matrix products of a checkpoint that is stored in 4 bits; default: the dtype it is loaded in.
        init: Arguments of `from_pretrained`. `dtype` is float32 by default; without `device_map` the model goes to the GPU,
            if there is one.
    """
    init.setdefault("dtype", "float32")
    if "device_map" not in init:
        # On MPS, "auto" crashes when 16-bit weights are cast to float32.
        init["device_map"] = None if PartialState().device.type in ("cpu", "mps") else "auto"
    kind = _kind(path, init) if kind is None else kind
    trust = bool(init.get("trust_remote_code"))
    with architecture.loading(path, init.get("revision"), trust_remote_code=trust):
        model = kind.from_pretrained(path, **init)
    is_dequantised = getattr(init.get("quantization_config"), "dequantize", False)
    if is_dequantised:
        setattr(model, DEQUANTISED_BY, type(init["quantization_config"]).__name__)
    quantised_base.align(model, compute_dtype, is_dequantised=is_dequantised)
    return model


def _kind(path: str, init: dict[str, Any]) -> type:
    trust = bool(init.get("trust_remote_code"))
    config = architecture.read(path, init.get("revision"), trust_remote_code=trust)
    named = architecture.class_of(config)
    # Classes of remote code are not in transformers; `auto_map` says by which name they are loaded.
    by_map = AutoModelForImageTextToText.__name__ in (getattr(config, "auto_map", None) or {})
    return named or (AutoModelForImageTextToText if by_map else AutoModelForCausalLM)


def quantisation(args: ModelConfig, compute_dtype: Any, *, is_sharded: bool = False) -> BitsAndBytesConfig | None:
    """The quantisation that `load_in_4bit` or `load_in_8bit` ask for; `None` without either.

    In 4 bits, models loaded from now on in this process have their experts quantised, too (`trl_ext.experts`), unless FSDP will
    shard them.

    Args:
        args: Settings of the model.
        compute_dtype: Of the matrix products of 4-bit weights.
        is_sharded: Whether FSDP will shard the model.
    """
    if args.load_in_4bit:
        quantizer.install(is_sharded=is_sharded)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=compute_dtype,
            bnb_4bit_quant_type=args.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=args.use_bnb_nested_quant,
            bnb_4bit_quant_storage=args.bnb_4bit_quant_storage,
        )
    return BitsAndBytesConfig(load_in_8bit=True) if args.load_in_8bit else None
