"""Recipe → model, data, trainer: the one module that knows all the others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import PeftModel
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.peft_utils import find_adapter_config_file
from trl import DatasetMixtureConfig, ModelConfig, get_dataset, get_peft_config, get_quantization_config
from trl.trainer.utils import create_model_from_path

from trl_ext import data, demo
from trl_ext.errors import UserError
from trl_ext.recipe import Recipe
from trl_ext.recipe.choice import text as loss_text
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.callbacks import MarginProgress, MetricsFile

EMBEDDED = "embedded"


@dataclass
class Precision:
    """Dtypes of a run. `reason` says what was chosen and why, for the log."""

    model_dtype: str
    compute_dtype: torch.dtype
    training: dict[str, bool]
    reason: str


def precision(recipe: Recipe) -> Precision:
    """Settle dtypes from the recipe and the device.

    Without an accelerator everything is float32: most CPUs have no bfloat16 matrix products and emulate them at
    a small fraction of float32's speed. On an accelerator weights and matrix products are bfloat16, float16
    where the card has no bfloat16. What the recipe sets is kept.
    """
    on_cpu = bool(recipe.get("use_cpu")) or not torch.accelerator.is_available()
    if on_cpu:
        default, training = "float32", {"use_cpu": True, "bf16": False, "fp16": False}
        why = "no accelerator in use"
    elif not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False):
        default, training = "bfloat16", {"bf16": True, "fp16": False}
        why = f"native on {_device_name()}"
    else:
        default, training = "float16", {"bf16": False, "fp16": True}
        why = f"{_device_name()} has no native bfloat16"
    if "bf16" in recipe.explicit or "fp16" in recipe.explicit:
        training |= {"bf16": bool(recipe.get("bf16")), "fp16": bool(recipe.get("fp16"))}
    # All weights are trained without an adapter, and bfloat16 ones would hardly move: float32 under autocast then.
    trains_all = not recipe.get("use_peft") and find_adapter_config_file(model_path(recipe)) is None
    model_dtype = recipe.get("dtype") if "dtype" in recipe.explicit else "float32" if trains_all else default
    compute = recipe.get("bnb_4bit_compute_dtype") or "auto"
    if compute == "auto":
        compute = default if model_dtype in (None, "auto") else model_dtype
    reason = f"weights {model_dtype}, 4-bit compute {compute}" if recipe.get("load_in_4bit") else f"{model_dtype}"
    autocast = "bf16" if training["bf16"] else "fp16" if training["fp16"] else "off"
    return Precision(
        model_dtype, getattr(torch, compute), training, f"{reason}, autocast {autocast} ({default}: {why})"
    )


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else torch.accelerator.current_accelerator().type


def model_path(recipe: Recipe) -> str:
    """Path or Hub name of the base model; `embedded` is the model that ships with the package."""
    name = recipe.get("model_name_or_path")
    return str(demo.MODEL) if name == EMBEDDED else name


@dataclass
class Built:
    """A trainer ready to train, and what is worth saying about how it came about."""

    trainer: PairedPreferenceTrainer | UnpairedPreferenceTrainer
    output_dir: Path
    statements: list[str]


def trainer(recipe: Recipe, output_dir: Path) -> Built:
    """Build the trainer of a recipe: data first, since it is the cheapest thing to get wrong.

    Args:
        recipe: A loaded recipe.
        output_dir: Run directory; metrics and checkpoints go there.

    Raises:
        UserError: Data, tokenizer or settings that cannot work, before any weights are loaded where possible.
    """
    statements: list[str] = []
    chosen = precision(recipe)
    args = config(recipe, output_dir, chosen)
    train, evaluation = datasets(recipe, args, statements)
    processing_class = tokenizer(recipe)
    statements.append(f"Precision: {chosen.reason}.")
    model, adapter = policy(recipe, args, chosen, statements)
    cls = PairedPreferenceTrainer if recipe.paired else UnpairedPreferenceTrainer
    try:
        built = cls(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=evaluation,
            processing_class=processing_class,
            **adapter,
        )
    except ValueError as error:
        # What only the constructed model can tell: an unknown LoRA target, an adapter on the head, …
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if "to be installed" not in str(error):  # transformers about a tracker named in `report_to`
            raise
        raise UserError(f"`report_to`: {error} Or remove it from `report_to`.") from error
    _count_overlong(built, train, statements)
    built.card_facts = {"dataset": recipe.get("dataset_name"), "recipe": recipe.name}
    if recipe.get("model_name_or_path") != model_path(recipe):
        built.card_facts["model"] = recipe.get("model_name_or_path")
    for callback in (ProgressCallback, PrinterCallback):
        built.remove_callback(callback)
    if not args.disable_tqdm:
        built.add_callback(MarginProgress)
    built.add_callback(MetricsFile(output_dir / "metrics.jsonl"))
    return Built(built, output_dir, statements)


def _count_overlong(built: Any, given: Any, statements: list[str]) -> None:
    """Say how many examples TRL dropped because their prompt leaves no room for a completion."""
    if not isinstance(given, Dataset):
        return
    dropped, limit = len(given) - len(built.train_dataset), built.args.max_length
    if not len(built.train_dataset):
        raise UserError(
            f"Every training example was dropped: all prompts have {limit} tokens or more. Raise `max_length`."
        )
    if dropped:
        statements.append(
            f"{dropped:,} of {len(given):,} training examples are left out: their prompt alone has {limit} tokens "
            "(`max_length`) or more."
        )


def config(recipe: Recipe, output_dir: Path, chosen: Precision) -> PairedPreferenceConfig | UnpairedPreferenceConfig:
    """The trainer configuration of a recipe. UserError with what TRL or transformers object to."""
    cls = PairedPreferenceConfig if recipe.paired else UnpairedPreferenceConfig
    # transformers' filter would log a lost (NaN) loss as 0.
    defaults = {"logging_nan_inf_filter": False, "report_to": "none"}
    if chosen.training.get("use_cpu"):
        defaults["dataloader_pin_memory"] = False
    values = defaults | recipe.sections()["training"] | chosen.training | {"output_dir": str(output_dir)}
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error


def datasets(recipe: Recipe, args: Any, statements: list[str]) -> tuple[Any, Any]:
    """Training and evaluation data as the loss needs them; the latter `None` where no evaluation is asked for.

    Evaluation data held out of the training split is cut off before pairs are split into single answers, so that
    both answers to a prompt stay on one side.
    """
    load = _loader(recipe)
    train = load(recipe.get("dataset_train_split") or "train", True)
    evaluation = None
    if recipe.get("eval_size"):
        seed = args.seed if args.data_seed is None else args.data_seed
        size = recipe.get("eval_size")
        halves = train.dataset.train_test_split(test_size=size if size < 1 else int(size), seed=seed)
        statements.append(f"{train.report.where}: {len(halves['test']):,} rows held out for evaluation.")
        train, evaluation = (data.Loaded(halves[name], train.report) for name in ("train", "test"))
    elif args.eval_strategy != "no":
        evaluation = load(recipe.get("dataset_test_split") or "test", False)
    train = _as_needed(train, recipe, recipe.get("max_train_samples"))
    statements += train.report.sentences()
    if recipe.get("max_train_samples"):
        statements.append(f"Only its first {recipe.get('max_train_samples'):,} rows are used (`max_train_samples`).")
        if isinstance(train.dataset, Dataset):
            data.require_teachable(data.describe(train.dataset))
    if evaluation is None:
        return train.dataset, None
    evaluation = _as_needed(evaluation, recipe, recipe.get("max_eval_samples"))
    if not recipe.get("eval_size"):
        statements += evaluation.report.sentences()
    return train.dataset, evaluation.dataset


def _loader(recipe: Recipe) -> Callable[[str, bool], data.Loaded]:
    """Reads a split of the recipe's data: one dataset, or the mixture TRL makes of a `datasets:` list."""
    source = str(demo.DATA) if recipe.get("dataset_name") == EMBEDDED else recipe.get("dataset_name")
    options = {
        "columns": recipe.get("dataset_columns"),
        "format": recipe.get("dataset_format") or "auto",
    }
    if recipe.get("datasets"):
        known = {field.name for field in dataclasses.fields(DatasetMixtureConfig)}
        values = {name: value for name, value in recipe.sections()["data"].items() if name in known}
        mixture = get_dataset(DatasetMixtureConfig(**values))
        return lambda split, training: data.load(mixture, split=split, training=training, **options)
    options |= {
        "config": recipe.get("dataset_config"),
        "revision": recipe.get("dataset_revision"),
        "streaming": bool(recipe.get("dataset_streaming")),
    }
    return lambda split, training: data.load(source, split=split, training=training, **options)


def _as_needed(loaded: data.Loaded, recipe: Recipe, limit: int | None) -> data.Loaded:
    """The first `limit` rows, as pairs for a paired loss; for an unpaired one, pairs are split into single answers."""
    dataset, report = loaded
    if limit is not None:
        few = isinstance(dataset, Dataset)
        dataset = dataset.select(range(min(limit, len(dataset)))) if few else dataset.take(limit)
        loaded = data.Loaded(dataset, report)
    if recipe.paired and not report.paired:
        raise UserError(
            f"{report.where} holds single answers with a label, and the loss {loss_text(recipe.loss)} compares pairs: "
            "choose a loss for labelled answers (`--loss kto`), or data with chosen and rejected."
        )
    return data.unpair(loaded) if report.paired and not recipe.paired else loaded


def tokenizer(recipe: Recipe) -> Any:
    """The model's processor (vision-language models) or tokenizer. UserError if it has no end-of-sequence token."""
    path = model_path(recipe)
    revision = recipe.get("model_revision") or "main"
    trust = bool(recipe.get("trust_remote_code"))
    if find_adapter_config_file(path) and not (Path(path) / "tokenizer_config.json").exists():
        path = _adapter_base(path)
    try:
        processor = AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=trust)
    except OSError as error:
        raise UserError(
            f"{path} cannot be loaded: {str(error).splitlines()[0]} Check the name and the network; a gated model needs "
            "`hf auth login` and its licence accepted on its page."
        ) from error
    if not isinstance(processor, PreTrainedTokenizerBase) and not hasattr(processor, "tokenizer"):
        processor = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust)
    text = getattr(processor, "tokenizer", processor)
    if text.eos_token is None:
        raise UserError(
            f"The tokenizer of {path} has no end-of-sequence token, so completions would never end: set one in its "
            "tokenizer_config.json."
        )
    return processor


def policy(recipe: Recipe, args: Any, chosen: Precision, statements: list[str]) -> tuple[Any, dict[str, Any]]:
    """The model argument of the trainer, and the adapter and quantisation arguments that go with it.

    A path to an adapter is continued: the base is loaded, the adapter put on it, and the reference is a frozen
    copy of that adapter instead of the bare base.
    """
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    values = {name: value for name, value in recipe.sections()["model"].items() if name in known}
    model_args = ModelConfig(**values | {"dtype": chosen.model_dtype})
    quantization = get_quantization_config(model_args)
    if model_args.load_in_4bit:
        quantization.bnb_4bit_compute_dtype = chosen.compute_dtype
    init = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(args.model_init_kwargs or {}),
    }
    path = model_path(recipe)
    if find_adapter_config_file(path) is None:
        args.model_init_kwargs = init
        peft_config = get_peft_config(model_args)
        if peft_config is not None:
            peft_config.target_modules = _lora_targets(recipe, peft_config.target_modules)
            check_lora_targets(path, peft_config.target_modules, model_args.model_revision, args.trust_remote_code)
            if peft_config.lora_dropout and args.disable_dropout and "lora_dropout" in recipe.explicit:
                statements.append(
                    "`lora_dropout` has no effect: `disable_dropout` is on, TRL's default, so that policy and reference "
                    "see the same network. Set `disable_dropout: false` to use it."
                )
        if peft_config is None:
            statements.append("No adapter (use_peft is off): all weights are trained.")
        return path, {"peft_config": peft_config, "quantization_config": quantization}
    set_seed(args.seed)
    args.model_init_kwargs = None
    init |= {"quantization_config": quantization, "trust_remote_code": args.trust_remote_code, "revision": None}
    if args.world_size > 1:
        init["device_map"] = None
    base = create_model_from_path(_adapter_base(path), **init)
    statements.append(f"Continues the adapter {path}; the reference is a frozen copy of it, not the bare base.")
    return PeftModel.from_pretrained(base, path, is_trainable=True), {}


def _lora_targets(recipe: Recipe, targets: Any) -> Any:
    """Undo TRL turning a list of one module name into a regular expression that matches no full name."""
    given = recipe.get("lora_target_modules")
    is_name = isinstance(given, list) and len(given) == 1 and given[0] != "all-linear" and given[0].isidentifier()
    return set(given) if is_name else targets


def check_lora_targets(path: str, targets: Any, revision: str = "main", trust_remote_code: bool = False) -> None:
    """Every named LoRA target exists in the model, judged from its configuration alone.

    PEFT trains the targets it finds and is silent about the others as long as there is one.

    Raises:
        UserError: Names without a module, and the names there are.
    """
    if targets is None or isinstance(targets, str):
        return
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    architecture = getattr(transformers, (config.architectures or [""])[0], None)
    if architecture is None:  # remote code, which is not run to check a spelling
        return
    with torch.device("meta"):
        modules = dict(architecture._from_config(config).named_modules())
    linear = sorted({name.rpartition(".")[2] for name, m in modules.items() if isinstance(m, torch.nn.Linear)})
    unknown = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in modules)]
    if unknown:
        raise UserError(
            f"`lora_target_modules` names {', '.join(unknown)}, which {path} does not have. Its linear layers: "
            f"{', '.join(linear)}; `all-linear` takes all of them but the head."
        )


def _adapter_base(path: str) -> str:
    return json.loads(Path(find_adapter_config_file(path)).read_text(encoding="utf-8"))["base_model_name_or_path"]
