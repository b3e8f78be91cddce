"""What finished runs leave, made without training: a recipe beside an adapter, or weights, away from where they began."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_ext import demo, recipe


def leave(directory: Path, model: str, *, scale: float = 0.05, seed: int = 0, **settings: Any) -> Path:
    """The directory of a run that trained an adapter on `model`, which may be the directory of such a run.

    Args:
        directory: Made here.
        model: As a recipe names it.
        scale: Of the adapter's entries; 0 leaves the base as it is.
        seed: Of the adapter.
        settings: Further keys of the recipe, or others than here.
    """
    base = str(demo.MODEL) if model == "embedded" else model
    if (Path(base) / "adapter_config.json").exists():
        base = json.loads((Path(base) / "adapter_config.json").read_text())["base_model_name_or_path"]
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=scale) if scale else parameter.zero_()
    tuned.save_pretrained(directory)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    _recipe(directory, model, use_peft=True, lora_r=4, lora_alpha=8, lora_target_modules="all-linear", **settings)
    return directory


def leave_all_weights(directory: Path, model: str, *, scale: float = 0.02, **settings: Any) -> Path:
    """The directory of a run that trained all weights of `model`."""
    tuned = AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    tuned.save_pretrained(directory)
    AutoTokenizer.from_pretrained(model).save_pretrained(directory)
    _recipe(directory, model, **settings)
    return directory


def _recipe(directory: Path, model: str, **settings: Any) -> None:
    path = directory / "small.yaml"
    path.write_text(yaml.safe_dump({"model_name_or_path": model, "dataset_name": "embedded", **settings}))
    recipe.load(path).dump(directory / "recipe.resolved.yaml")
    path.unlink()
