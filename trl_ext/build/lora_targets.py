"""Check that the modules and parameters that get a LoRA exist in the model."""

from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers import PreTrainedConfig

from trl_ext.build import architecture
from trl_ext.experts.targets import ends_of_parameters, has_experts, outside_experts, unknown_parameters
from trl_ext.model_files import quantised
from trl_ext.recipe import Recipe
from trl_ext.support import messages
from trl_ext.support.errors import UserError

ALL = "all-linear"


def as_given(recipe: Recipe, targets: Any) -> Any:
    """Undo TRL turning a list of one module name into a regular expression that matches no full name."""
    given = recipe.get("lora_target_modules")
    is_name = isinstance(given, list) and len(given) == 1 and given[0] != "all-linear" and given[0].isidentifier()
    return set(given) if is_name else targets


class Targets(NamedTuple):
    """What gets a LoRA.

    Attributes:
        modules: PEFT's `target_modules`.
        has_experts: Whether experts are among the targets. Fused into tensors, they are not modules, but PEFT finds them.
        is_mixture: Whether the model has experts.
    """

    modules: Any
    has_experts: bool = False
    is_mixture: bool = False


def check(
    path: str,
    targets: Any,
    revision: str = "main",
    trust_remote_code: bool = False,
    parameters: list[str] | None = None,
) -> Targets:
    """Check that every named LoRA target exists in the model. Only its configuration is read.

    PEFT trains the targets it finds and ignores the others silently, as long as it finds one. `all-linear` becomes the names of
    the linear layers outside experts if the model is a mixture of them, and of all linear layers if PEFT would not find them.

    Args:
        path: Path or Hub name of the model.
        targets: Names or ends of names; a pattern (a string) is left to PEFT.
        revision: Of the model on the Hub.
        trust_remote_code: Whether its configuration may be code.
        parameters: Names or ends of names of parameters (`target_parameters`).

    Raises:
        UserError: A name matches no module or parameter; lists those that exist.
    """
    config = architecture.read(path, revision, trust_remote_code=trust_remote_code)
    is_named = targets is not None and not isinstance(targets, str)
    hides_linear = _hides_linear_layers(config)
    if architecture.class_of(config) is None or not (
        is_named or parameters or hides_linear or _may_have_experts(config)
    ):
        return Targets(targets, bool(parameters))  # remote code is not run to check a spelling
    model = architecture.on_meta(path, config)
    is_mixture = has_experts(model)
    _require_parameters(path, model, parameters or [])
    if isinstance(targets, str) and targets.lower() == ALL and (is_mixture or hides_linear):
        return Targets(outside_experts(model) if is_mixture else _linear(model), bool(parameters), is_mixture)
    if not is_named:
        return Targets(targets, bool(parameters), is_mixture)
    modules = dict(model.named_modules())
    linear = sorted({name.rpartition(".")[2] for name, m in modules.items() if isinstance(m, torch.nn.Linear)})
    asked = LoraConfig(target_modules=set(targets))
    try:
        convert_peft_config_for_transformers(asked, model, None)  # names of experts become those of tensors
    except ValueError as error:
        raise UserError(f"`lora_target_modules`: {error}") from error
    unknown = sorted(t for t in asked.target_modules if not any(n == t or n.endswith(f".{t}") for n in modules))
    if unknown:
        raise UserError(
            f"`lora_target_modules` names {', '.join(unknown)}, which {path} does not have. Its linear layers are "
            f"{', '.join(linear)}. `all-linear` selects all of them except the head."
        )
    return Targets(targets, bool(asked.target_parameters or parameters), is_mixture)


def _hides_linear_layers(config: PreTrainedConfig) -> bool:
    """Whether the model is stored by AWQ or GPTQ, whose layers PEFT does not take for linear ones where it looks for them."""
    stored = quantised.of_config("", config.to_dict(), {})
    return stored is not None and stored.kind in ("awq", "gptq")


def _linear(model: torch.nn.Module) -> list[str]:
    """Last names of the linear layers except the head."""
    head = model.get_output_embeddings()
    found = (name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head)
    return sorted({name.rpartition(".")[2] for name in found})


def _may_have_experts(config: PreTrainedConfig) -> bool:
    return any("expert" in name for name in config.get_text_config().to_dict())


def _require_parameters(path: str, model: torch.nn.Module, given: list[str]) -> None:
    unknown = unknown_parameters(model, given)
    if unknown:
        known = ends_of_parameters(model)
        near = messages.nearest(unknown[0], known)
        meant = f"Did you mean {near[0]}?" if near else f"Its matrices are {', '.join(known)}."
        raise UserError(
            f"`lora_target_parameters` names {', '.join(map(messages.shown_text, unknown))}, which {path} does not have. {meant}"
        )
