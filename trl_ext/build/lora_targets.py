"""Which modules a LoRA is put on: as the recipe names them, and only such as the model has."""

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
    """Every named LoRA target exists in the model, judged from its configuration alone.

    PEFT trains the targets it finds and is silent about the others as long as there is one.

    Args:
        path: Path or Hub name of the model.
        targets: Names or ends of names; a pattern (a text) is PEFT's to judge.
        revision: Of the model on the Hub.
        trust_remote_code: Whether its configuration may be code.

    Returns:
        Whether experts are among the targets: fused into tensors they are no modules, and PEFT finds them nevertheless.

    Raises:
        UserError: Names without a module, and the names there are.
    """
    if targets is None or isinstance(targets, str):
        return False
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    architecture = getattr(transformers, (config.architectures or [""])[0], None)
    if architecture is None:  # remote code, which is not run to check a spelling
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
            f"`lora_target_modules` names {', '.join(unknown)}, which {path} does not have. Its linear layers: "
            f"{', '.join(linear)}; `all-linear` takes all of them but the head."
        )
    return bool(asked.target_parameters)
