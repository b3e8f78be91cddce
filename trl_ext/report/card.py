"""The model card of a run directory."""

import json
from enum import Enum
from typing import Any

from accelerate.utils import is_peft_model
from huggingface_hub import ModelCardData
from trl.trainer.utils import get_config_model_id

from trl_ext import losses
from trl_ext.trainers.step_zero import reference_of

HYPERPARAMETERS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "max_length", "optim",
    "weight_decay", "max_grad_norm", "seed",
)  # fmt: skip


def render(trainer: Any, name: str, dataset: str | None, tags: list[str]) -> str:
    """Markdown with Hub metadata: base model, data, loss with its formula, hyperparameters, versions.

    Args:
        trainer: A preference trainer; reads `loss`, `args`, `model`, `state` and `card_facts`.
        name: Title of the card.
        dataset: Dataset name; `card_facts["dataset"]` if `None`.
        tags: Hub tags.
    """
    args, loss, facts = trainer.args, trainer.loss, dict(trainer.card_facts)
    base = get_config_model_id(trainer.model.config)
    dataset = dataset or facts.get("dataset")
    metadata = ModelCardData(
        base_model=base if _on_hub(base) else None,
        datasets=[dataset] if dataset and _on_hub(dataset) else None,
        library_name="peft" if is_peft_model(trainer.model) else "transformers",
        tags=sorted(set(tags) | {"preference-optimization"}),
        model_name=name,
    )
    examples = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    rows = {
        "base model": f"`{base}`",
        "reference policy": reference_of(trainer),
        **{key: f"`{value}`" for key, value in facts.items()},
        "loss": f"`{loss.name}`: {loss.formula}" + (f" ({loss.paper})" if loss.paper else ""),
        "loss hyperparameters": f"`{json.dumps(loss.hyperparameters)}`",
        "examples per step": f"{examples}",
        **{key: f"`{_plain(getattr(args, key))}`" for key in HYPERPARAMETERS},
    }
    if is_peft_model(trainer.model):
        adapter = trainer.model.peft_config["default"]
        sizes = [f", {name} {getattr(adapter, name)}" for name in ("r", "lora_alpha") if hasattr(adapter, name)]
        rows["adapter"] = adapter.peft_type.value + "".join(sizes)
    if trainer.state.global_step:
        rows["steps trained"] = f"{trainer.state.global_step}"
    rows["notation"] = losses.NOTATION
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"---\n{metadata.to_yaml()}\n---\n\n# {name}\n\n| | |\n|---|---|\n{table}\n\n{_usage(trainer, base)}"


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _on_hub(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _usage(trainer: Any, base: str) -> str:
    if not is_peft_model(trainer.model):
        return ""
    return (
        "```python\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{base}")\n'
        'model = PeftModel.from_pretrained(model, "<this directory>")\n'
        "```\n"
    )
