"""Refuse adapters that cannot be trained exactly, before anything is loaded (`trl_ext.model_files.adapter_types`)."""

from typing import Any

from peft import PeftConfig, PeftModel

from trl_ext.model_files import adapter_types, task
from trl_ext.model_files.adapter_types import Use

POLICY = "default"  # TRL trains the adapter of this name


def in_training(model: Any, new: PeftConfig | None) -> list[PeftConfig]:
    """Configurations of the adapters of `model`, which may still be a path, or of the new one."""
    return list(model.peft_config.values()) if isinstance(model, PeftModel) else [new] if new is not None else []


def refuse(
    model: Any,
    new: PeftConfig | None,
    *,
    quantization_config: Any = None,
    needs_reference: bool = True,
    shares_base: bool = False,
) -> None:
    """Refuse an adapter that cannot be trained exactly.

    Args:
        model: The policy, or its path.
        new: Configuration of the adapter that is put on it, if one is.
        quantization_config: With which the path is loaded.
        needs_reference: The base without the new adapter is the reference.
        shares_base: Other roles are adapters on the same base.

    Raises:
        ValueError: The adapter cannot be trained, or has another name than TRL expects; or the model gives scores.
    """
    is_continued = isinstance(model, PeftModel)
    base = model.get_base_model() if is_continued else model
    if (what := task.of_architecture([type(base).__name__])) is not None:
        raise ValueError(
            f"`model` is {what}, and the policy must be a causal language model. Give the model it was trained on."
        )
    if is_continued and POLICY not in model.peft_config:
        raise ValueError(
            f"The model's adapter is named {next(iter(model.peft_config))!r}, and TRL trains the adapter named {POLICY!r}. Load it "
            f"with `adapter_name={POLICY!r}`, PEFT's default."
        )
    use = Use(
        is_continued=is_continued,
        needs_reference=needs_reference,
        shares_base=shares_base,
        is_quantised=quantization_config is not None or getattr(base, "is_quantized", False),
    )
    for config in in_training(model, new):
        if (problem := adapter_types.problem(config.to_dict(), use)) is not None:
            raise ValueError(problem)
