"""Write the model card of a run directory."""

from collections.abc import Sequence
from enum import Enum
from typing import Any

from accelerate.utils import is_peft_model
from huggingface_hub import ModelCardData
from trl.trainer.utils import get_config_model_id

from trl_ext.experts.storage import in_4_bits
from trl_ext.report import card_blocks, loaders
from trl_ext.report.dequantised import DEQUANTISED_BY

HYPERPARAMETERS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "max_length", "optim",
    "weight_decay", "max_grad_norm", "seed",
)  # fmt: skip


def render(trainer: Any, name: str, dataset: str | None, tags: list[str], changes: Sequence[str] = ()) -> str:
    """Render Markdown with Hub metadata: base model, data, method, hyperparameters, and an empty place for results.

    Args:
        trainer: A trainer with the mixin `ModelCard`; reads `args`, `model`, `state`, `card_facts` and `card_method()`.
        name: Title of the card.
        dataset: Name of the dataset; default: `card_facts["dataset"]`.
        tags: Hub tags.
        changes: Phrases about settings that change the objective.
    """
    args, facts = trainer.args, dict(trainer.card_facts)
    base, named = get_config_model_id(trainer.model.config), facts.pop("model", None)
    dataset = dataset or facts.get("dataset")
    metadata = ModelCardData(
        base_model=base if on_hub(base) else None,
        datasets=[dataset] if dataset and on_hub(dataset) else None,
        library_name="peft" if is_peft_model(trainer.model) else "transformers",
        tags=sorted(set(tags)),
        model_name=name,
    )
    examples = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    rows = {
        "base model": f"`{named or base}`" + _in_bits(trainer.model.config),
        **{key: f"`{value}`" for key, value in facts.items()},
        **trainer.card_method(),
        **({"changed by": "; ".join(changes)} if changes else {}),
        "examples per step": f"{examples}",
        **{key: f"`{_plain(getattr(args, key))}`" for key in _settings(args)},
    }
    if is_peft_model(trainer.model):
        adapter = trainer.model.peft_config["default"]
        sizes = [f", {name} {getattr(adapter, name)}" for name in ("r", "lora_alpha") if hasattr(adapter, name)]
        rows["adapter"] = adapter.peft_type.value + "".join(sizes)
    if trainer.state.global_step:
        rows["steps trained"] = f"{trainer.state.global_step}"
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return card_blocks.assemble(
        f"---\n{metadata.to_yaml()}\n---\n\n# {name}",
        run=f"| | |\n|---|---|\n{table}",
        results="",
        usage=_usage(trainer, base),
    )


def _settings(args: Any) -> list[str]:
    """Names of the hyperparameters; of `num_train_epochs` and `max_steps`, the one that took effect."""
    unread = "num_train_epochs" if args.max_steps > 0 else "max_steps"
    return [key for key in HYPERPARAMETERS if hasattr(args, key) and key != unread]


def _in_bits(config: Any) -> str:
    """Quantisation of the base during training, in words."""
    values = _quantisation(config)
    if values.get("load_in_4bit"):
        return f", trained in 4 bits ({values['bnb_4bit_quant_type']})"
    return ", trained in 8 bits" if values.get("load_in_8bit") else ""


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def on_hub(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


EXPERTS = """from trl_ext.experts import quantizer

quantizer.install()  # quantises the experts, too; transformers and vLLM leave them in 16 bits

"""
"""Lines of code that load a mixture as in training."""


def _usage(trainer: Any, base: str) -> str:
    if not is_peft_model(trainer.model):
        return ""
    is_scorer = trainer.model.peft_config["default"].task_type == "SEQ_CLS"
    model = trainer.model.get_base_model()
    by_name = loaders.of(type(model).__name__, is_classifier=is_scorer)
    quantised = _quantisation(model.config)
    has_experts = any(map(in_4_bits, model.modules()))
    imports, given = {by_name.model, by_name.processing}, [f'"{base}"', f"dtype={model.dtype}"]
    revision = trainer.model.active_peft_config.revision or (trainer.args.model_init_kwargs or {}).get("revision")
    if revision not in (None, "main"):
        given.append(f'revision="{revision}"')
    if is_scorer:
        given.append("num_labels=1")
    if quantised and not is_stored_quantised(model):
        imports.add("BitsAndBytesConfig")
        settings = "".join(f"        {_as_python(key, value)},\n" for key, value in quantised.items())
        given.append(f"quantization_config=BitsAndBytesConfig(\n{settings}    )")
    by, to_dtype = getattr(model, DEQUANTISED_BY, None), ""
    if by is not None:
        imports.add(by)
        given.append(f"quantization_config={by}(dequantize=True)")
        to_dtype = (
            "for parameter in model.parameters():  # dequantised weights may have another dtype\n"
            f"    parameter.data = parameter.data.to({model.dtype})\n"
        )
    if getattr(trainer.args, "trust_remote_code", False):
        given.append("trust_remote_code=True")
    arguments = ",\n    ".join(given)
    return (
        f"Loaded in this way, the model computes the same as in training{_if_of_that_dtype(model)}:\n\n"
        "```python\n"
        "import torch\n"
        "from peft import PeftModel\n"
        f"from transformers import {', '.join(sorted(imports))}\n\n"
        f"{EXPERTS if has_experts else ''}"
        f"model = {by_name.model}.from_pretrained(\n    {arguments},\n)\n"
        f"{to_dtype}"
        'model = PeftModel.from_pretrained(model, "<this directory>").eval()\n'
        f"{_lines(trainer.args, quantised)}"
        f'{by_name.variable} = {by_name.processing}.from_pretrained("<this directory>")\n'
        "```\n"
    )


def _if_of_that_dtype(model: Any) -> str:
    """A checkpoint that is stored quantised records dtypes of its own, which a run replaces by its own."""
    return (
        f" if the base was stored for {str(model.dtype).removeprefix('torch.')}" if is_stored_quantised(model) else ""
    )


def is_stored_quantised(model: Any) -> bool:
    """Whether a model was loaded from a checkpoint that is stored quantised, which needs no settings to be loaded."""
    return bool(getattr(getattr(model, "hf_quantizer", None), "pre_quantized", False))


def _quantisation(config: Any) -> dict[str, Any]:
    """Arguments of `BitsAndBytesConfig` for the base; empty if it was not quantised."""
    given = getattr(config, "quantization_config", None) or {}
    values = given if isinstance(given, dict) else given.to_dict()
    kept = {key: value for key, value in values.items() if key.startswith("bnb_4bit_") and values.get("load_in_4bit")}
    return {key: True for key in ("load_in_4bit", "load_in_8bit") if values.get(key)} | kept


def _as_python(key: str, value: Any) -> str:
    """An argument of `BitsAndBytesConfig` as Python code; its dictionary has dtypes by name."""
    if key.endswith(("_dtype", "_storage")):
        return f"{key}=torch.{value}"
    return f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}"


def _lines(args: Any, quantised: dict[str, Any]) -> str:
    """Lines of code for device-dependent differences between training and PEFT's defaults."""
    lines = ""
    if "load_in_4bit" in quantised:
        lines += (
            "# Keep bitsandbytes from rounding the 4-bit weights again in evaluation mode on CPUs with AVX512-BF16.\n"
            "for module in model.modules():\n    module.support_avx512bf16_for_cpu = False\n"
        )
    if dtype := "bfloat16" if args.bf16 else "float16" if args.fp16 else "":
        lines += f'# Trained under `torch.autocast("cuda", dtype=torch.{dtype})`: use the same context.\n'
    return lines
