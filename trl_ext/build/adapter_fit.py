"""Check that an adapter fits its base before the base is loaded: PEFT puts it on a model without storage."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import TrainableTokensWrapper

from trl_ext.build import architecture
from trl_ext.model_files import adapter as adapter_files
from trl_ext.model_files import adapter_types
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError


def check(
    adapter: str,
    base: str,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    is_classifier: bool = False,
    **uses: bool,
) -> None:
    """Check every weight of an adapter against the architecture of its base. Of the base only the configuration is read.

    PEFT is silent about weights of modules that it did not find, and only warns about modules without weights, which stay as
    they were initialised.

    Args:
        adapter: Folder or Hub name of the adapter.
        base: Folder or Hub name of the base.
        revision: Of the base on the Hub.
        trust_remote_code: Whether the base's configuration may be code. A model that is code is not built here.
        is_classifier: Whether the adapter is of a sequence classifier with one output.
        uses: See `problem`.

    Raises:
        UserError: A weight has no module or another size, or a module has no weight.
    """
    config = architecture.read(base, revision, trust_remote_code=trust_remote_code)
    if architecture.class_of(config) is None:
        return
    why = problem(architecture.on_meta(base, config, is_classifier=is_classifier), adapter, **uses)
    if why is not None:
        raise UserError(f"The adapter in {adapter} does not fit its base {base}: {why}")


def problem(model: Any, adapter: str, *, reads_head: bool = False, merges: bool = False) -> str | None:
    """The end of a sentence about an adapter that does not fit a model; `None` if it does.

    Args:
        model: On the meta device; it is changed.
        adapter: Folder or Hub name.
        reads_head: Whether a trainer reads the head's weight directly, so that nothing may be put on the head.
        merges: Whether the adapter will be merged, so that the base must have a place for each of its biases.
    """
    try:
        settings = PeftConfig.from_pretrained(adapter)
    except (ValueError, KeyError, TypeError) as error:
        return f"its {adapter_files.CONFIG} cannot be read by the installed PEFT ({_last_line(error)}) Update PEFT, or save it again."
    if settings.is_prompt_learning or adapter_types.type_of(settings.to_dict()) in NEEDS_NUMBERS:
        return None
    rows, tokens = model.get_input_embeddings().weight.shape[0], adapter_files.trained_tokens(settings.to_dict())
    if tokens and max(tokens) >= rows:
        return f"it trains token {max(tokens):,}, and the base has {rows:,} embeddings. {OTHER_BASE}"
    if getattr(settings, "init_lora_weights", True) is not True:
        settings.init_lora_weights = True  # others compute with the weights of the base
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tied weights, and of copies that do nothing without storage
            on_base: PeftModel = get_peft_model(model, settings)
            found = on_base.load_adapter(adapter, "default", torch_device="cpu")
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        return f"{_last_line(error)} {OTHER_BASE}"
    for names, what in (
        (found.unexpected_keys, "has no place in it"),
        (found.missing_keys, "is missing in the adapter"),
    ):
        if names:
            more = f" (with {count(len(names) - 1, 'other weights')})" if len(names) > 1 else ""
            return f"{names[0].replace('.default', '')}{more} {what}. {OTHER_BASE}"
    if reads_head and isinstance(on_base.get_output_embeddings(), BaseTunerLayer | TrainableTokensWrapper):
        return (
            "part of it is on the head, whose weight is read directly to compute log-probabilities. It would be left out and "
            "never be trained. Merge the adapter into its base and train a new one."
        )
    if merges and (without := _without_bias(on_base)):
        return (
            f"it has biases (`lora_bias`), and {without} of the base has no bias to add them to. It cannot be merged. Load it "
            "with PEFT on its base."
        )
    return None


def _without_bias(model: PeftModel) -> str | None:
    """The name of a module whose LoRA has a bias, while it has none itself."""
    for name, module in model.named_modules():
        biases = [b for b in dict(getattr(module, "lora_B", {})).values() if getattr(b, "bias", None) is not None]
        if biases and isinstance(module, BaseTunerLayer) and getattr(module.get_base_layer(), "bias", None) is None:
            return name.removeprefix("base_model.model.")
    return None


NEEDS_NUMBERS = ("BOFT", "FROD", "SHIRA", "UNILORA", "VBLORA")
"""Types that PEFT cannot put on a model without storage, or whose layers share weights that are saved once."""
OTHER_BASE = (
    f"Correct {adapter_files.CONFIG}: `base_model_name_or_path` is the model the adapter was trained on, `target_modules` its "
    "modules."
)


def _last_line(error: Exception) -> str:
    text = str(error).strip().splitlines()[-1].strip() or type(error).__name__
    return text if text.endswith(".") else f"{text}."
