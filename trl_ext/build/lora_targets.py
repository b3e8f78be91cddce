"""Check that the modules named in `lora_target_modules` exist in the model."""

from typing import Any

import torch
import transformers
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers import AutoConfig

from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError


def as_given(recipe: Recipe, targets: Any) -> Any:
    """Undo TRL turning a list of one module name into a regular expression that matches no full name."""
    given = recipe.get("lora_target_modules")
    is_name = isinstance(given, list) and len(given) == 1 and given[0] != "all-linear" and given[0].isidentifier()
    return set(given) if is_name else targets


def check(path: str, targets: Any, revision: str = "main", trust_remote_code: bool = False) -> bool:
    """Check that every named LoRA target exists in the model. Only its configuration is read.

    PEFT trains the targets it finds and ignores the others silently, as long as it finds one.

    Args:
        path: Path or Hub name of the model.
        targets: Names or ends of names; a pattern (a string) is left to PEFT.
        revision: Of the model on the Hub.
        trust_remote_code: Whether its configuration may be code.

    Returns:
        Whether experts are among the targets. Fused into tensors, they are not modules, but PEFT finds them.

    Raises:
        UserError: A name matches no module; lists the names of the linear layers.
    """
    if targets is None or isinstance(targets, str):
        return False
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    architecture = getattr(transformers, (config.architectures or [""])[0], None)
    if architecture is None:  # remote code is not run to check a spelling
        return False
    with torch.device("meta"):
        model = architecture._from_config(config)
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
    return bool(asked.target_parameters)
