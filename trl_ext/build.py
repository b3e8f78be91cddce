"""Recipe → model, data, trainer: the one module that knows all the others."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import transformers
from peft import PeftModel
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.peft_utils import find_adapter_config_file
from trl import ModelConfig, get_peft_config, get_quantization_config, is_conversational
from trl.trainer.utils import create_model_from_path

from trl_ext import demo, examples, reward_sources
from trl_ext.demo import EMBEDDED
from trl_ext.errors import UserError
from trl_ext.folders import adapter as adapter_folder
from trl_ext.folders import model as model_folder
from trl_ext.inspection import check, model_files, special_tokens
from trl_ext.inspection.tokenise import kind_of
from trl_ext.recipe import Recipe
from trl_ext.rules.ppo import kl_in_words
from trl_ext.trainers import (
    OnlinePreferenceConfig,
    OnlinePreferenceTrainer,
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    PPOConfig,
    PPOTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
    provenance,
)
from trl_ext.trainers.callbacks import MarginProgress, MetricsFile, ProgressLines
from trl_ext.trainers.ppo_settings import SettingsWarning
from trl_ext.trainers.stages import RewardModelConfig, RewardModelTrainer, SupervisedConfig, SupervisedTrainer
from trl_ext.trainers.watch import Watch

if TYPE_CHECKING:
    from trl_ext.comparison.shared_base import SharedBase


class Classes(NamedTuple):
    """A trainer and its configuration."""

    trainer: type
    config: type


TRAINERS = {
    "paired": Classes(PairedPreferenceTrainer, PairedPreferenceConfig),
    "unpaired": Classes(UnpairedPreferenceTrainer, UnpairedPreferenceConfig),
    "ppo": Classes(PPOTrainer, PPOConfig),
    "online": Classes(OnlinePreferenceTrainer, OnlinePreferenceConfig),
    "reward": Classes(RewardModelTrainer, RewardModelConfig),
    "sft": Classes(SupervisedTrainer, SupervisedConfig),
}


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

    Raises:
        UserError: 16 bits are asked for without an accelerator, and `use_cpu` does not say that this is meant.
    """
    on_cpu = bool(recipe.get("use_cpu")) or not torch.accelerator.is_available()
    asked = next((key for key in ("bf16", "fp16") if recipe.get(key)), None)
    if asked and on_cpu and not recipe.get("use_cpu"):
        raise UserError(
            f"`{asked}` is true, and there is no GPU here that computes in 16 bits: remove it (float32 is then chosen), or "
            "add `use_cpu: true` to have it emulated, many times slower."
        )
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

    trainer: Any
    output_dir: Path
    statements: list[str]


def trainer(recipe: Recipe, output_dir: Path, base: SharedBase | None = None, checkpoint: str | None = None) -> Built:
    """Build the trainer of a recipe: data first, since it is the cheapest thing to get wrong.

    Args:
        recipe: A loaded recipe.
        output_dir: Run directory; metrics and checkpoints go there.
        base: Lends the base model where several trainers share one; otherwise it is loaded.
        checkpoint: What training will go on from; refused early where the settings are others.

    Raises:
        UserError: Data, tokenizer or settings that cannot work, before any weights are loaded where possible.
    """
    statements: list[str] = []
    if problem := model_folder.problem(model_path(recipe)):
        raise UserError(problem)
    chosen = precision(recipe)
    args = config(recipe, output_dir, chosen)
    if checkpoint is not None:
        provenance.refuse_other_settings(Path(checkpoint), args)
    given = examples.read(recipe, args, statements)
    processing_class = tokenizer(recipe)
    check_template(recipe, args, processing_class, given.train)
    statements.append(f"Precision: {chosen.reason}.")
    statements += _on_templates(recipe, args, processing_class, given.train)
    sources = rewards(recipe, statements)
    train = _checked(recipe, args, given, processing_class, statements)
    model, adapter = policy(recipe, args, chosen, statements, base)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=SettingsWarning)  # which the recipe's notes say too
            built = TRAINERS[recipe.kind].trainer(
                model=model,
                args=args,
                train_dataset=train,
                eval_dataset=given.evaluation,
                processing_class=processing_class,
                **sources,
                **adapter,
            )
    except ValueError as error:
        # What only the constructed model can tell: an unknown LoRA target, an adapter on the head, …
        raise UserError(str(error)) from error
    except ImportError as error:
        if "FlashAttention" not in str(error):
            raise
        why = str(error).rpartition("error: ")[2]
        raise UserError(
            f"`attn_implementation` is {recipe.get('attn_implementation')}, and {why} Remove it: packed rows use PyTorch's "
            "own flash kernels."
        ) from error
    except RuntimeError as error:
        if "to be installed" not in str(error):  # transformers about a tracker named in `report_to`
            raise
        raise UserError(f"`report_to`: {error} Or remove it from `report_to`.") from error
    except Exception as error:
        if not args.push_to_hub or not _is_of_the_hub(error):
            raise
        raise UserError(
            f"`push_to_hub` is on, and the repository cannot be made on the Hub: {str(error).splitlines()[0].rstrip('.')}. Check the network "
            "and `hf auth login`, or push the finished run with `hf upload`."
        ) from error
    built.card_facts = {"dataset": recipe.get("dataset_name"), "recipe": recipe.name}
    if recipe.get("model_name_or_path") != model_path(recipe):
        built.card_facts["model"] = recipe.get("model_name_or_path")
    for callback in (ProgressCallback, PrinterCallback):
        built.remove_callback(callback)
    if not args.disable_tqdm:
        built.add_callback(MarginProgress)
    elif "disable_tqdm" not in recipe.explicit:
        built.add_callback(ProgressLines)
    built.add_callback(MetricsFile(output_dir / "metrics.jsonl"))
    built.add_callback(Watch(built, output_dir / "metrics.jsonl"))
    return Built(built, output_dir, statements)


def _is_of_the_hub(error: Exception) -> bool:
    """Whether an error comes from the Hub's client or from the connection below it."""
    return type(error).__module__.partition(".")[0].startswith(("huggingface_hub", "httpx", "httpcore", "requests"))


def rewards(recipe: Recipe, statements: list[str]) -> dict[str, Any]:
    """The reward functions that trainers with rewards take, imported, or nothing for others."""
    if recipe.trainer not in ("ppo", "online"):
        return {}
    names = recipe.get("reward_funcs") or []
    # Of the user's own code the recipe's notes said so, before it is run here.
    statements += [reward_sources.statement(name) for name in names if not reward_sources.is_users_code(name)]
    if recipe.get("reward_adapter"):
        statements.append(f"Reward: the adapter {recipe.get('reward_adapter')}, on the policy's own base.")
    if recipe.trainer == "ppo":
        kl, gradient = kl_in_words(recipe.effective)
        statements.append(f"KL: {kl}; its gradient: {gradient}.")
    return {"reward_funcs": [reward_sources.load(name) for name in names]}


def _checked(recipe: Recipe, args: Any, given: examples.Examples, processing_class: Any, statements: list[str]) -> Any:
    """The training data for the trainer; UserError if it cannot teach."""
    return check.before_training(
        kind_of(recipe),
        given,
        processing_class,
        args,
        model_files_of(recipe, processing_class),
        statements,
        peek=lambda first: examples.read(recipe, args, [], first),
    )


def model_files_of(recipe: Recipe, processing_class: Any) -> model_files.ModelFiles:
    """What the small files of the recipe's base model say."""
    path, revision = model_path(recipe), recipe.get("model_revision") or "main"
    if find_adapter_config_file(path) is not None:
        path, revision = _adapter_base(path), "main"
    return model_files.read(path, revision, bool(recipe.get("trust_remote_code")), processing_class)


def config(recipe: Recipe, output_dir: Path, chosen: Precision) -> Any:
    """The trainer configuration of a recipe. UserError with what TRL or transformers object to."""
    # transformers' filter would log a lost (NaN) loss as 0.
    defaults = {"logging_nan_inf_filter": False, "report_to": "none"}
    defaults["disable_tqdm"] = not sys.stderr.isatty()  # transformers derives it from its verbosity
    if chosen.training.get("use_cpu"):
        defaults["dataloader_pin_memory"] = False
    values = defaults | recipe.sections()["training"] | chosen.training | {"output_dir": str(output_dir)}
    try:
        return TRAINERS[recipe.kind].config(**values)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error


def tokenizer(recipe: Recipe) -> Any:
    """The model's processor (vision-language models) or tokenizer. UserError if it has no end-of-sequence token."""
    path = model_path(recipe)
    revision = recipe.get("model_revision") or "main"
    trust = bool(recipe.get("trust_remote_code"))
    if find_adapter_config_file(path) and not (Path(path) / "tokenizer_config.json").exists():
        path = _adapter_base(path)
    try:
        processor = AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=trust)
    except (OSError, ValueError) as error:
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
    _check_embeddings(text, path, revision, trust)
    return processor


def check_template(recipe: Recipe, args: Any, processing_class: Any, train: Any) -> None:
    """UserError if the data are conversations and nothing says how to write them as text."""
    if getattr(processing_class, "chat_template", None) or getattr(args, "chat_template_path", None):
        return
    if is_conversational(next(iter(train), {})):
        raise UserError(
            f"The data are conversations, and the tokenizer of {model_path(recipe)} has no chat template to write them with: "
            "choose an instruction-tuned model, or put a chat_template.jinja beside its tokenizer."
        )


def _on_templates(recipe: Recipe, args: Any, processing_class: Any, train: Any) -> list[str]:
    """What is not done with a chat template, where that may surprise."""
    is_chat = is_conversational(next(iter(train), {}))
    if not is_chat and getattr(processing_class, "chat_template", None) and recipe.kind != "sft":
        return [
            "The data are plain text, so the model's chat template is not applied: if people are to chat with the result, "
            "write prompts and answers as messages."
        ]
    if is_chat and recipe.kind == "sft" and "messages" in next(iter(train), {}) and not args.assistant_only_loss:
        return ["Every token is learned, questions too; `assistant_only_loss: true` learns the answers alone."]
    return []


def _check_embeddings(tokenizer: Any, path: str, revision: str, trust: bool) -> None:
    """UserError if there are tokens without an embedding; an adapter's own tokenizer is not judged."""
    if find_adapter_config_file(path):
        return
    rows = special_tokens.embeddings(AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust))
    beyond = special_tokens.unembedded(tokenizer, rows) if rows else []
    if beyond:
        raise UserError(
            f"The tokenizer of {path} has tokens that its {rows:,} embeddings do not reach, {len(beyond):,} of them, for "
            f"instance {', '.join(map(repr, beyond[:3]))}: take the tokenizer the model was trained with, or call "
            "`model.resize_token_embeddings(len(tokenizer))` and save both."
        )


def policy(
    recipe: Recipe, args: Any, chosen: Precision, statements: list[str], lender: SharedBase | None = None
) -> tuple[Any, dict[str, Any]]:
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
            if recipe.kind == "reward":
                peft_config.task_type = "SEQ_CLS"
                peft_config.modules_to_save = sorted({*(peft_config.modules_to_save or ()), "score"})
            if (
                peft_config.lora_dropout
                and getattr(args, "disable_dropout", False)
                and "lora_dropout" in recipe.explicit
            ):
                statements.append(
                    "`lora_dropout` has no effect: `disable_dropout` is on, TRL's default, so that policy and reference "
                    "see the same network. Set `disable_dropout: false` to use it."
                )
        if peft_config is None:
            statements.append("No adapter (use_peft is off): all weights are trained.")
        elif lender is not None:
            args.model_init_kwargs = None
            init |= {"quantization_config": quantization, "trust_remote_code": args.trust_remote_code}
            return lender.lend(path, **init), {"peft_config": peft_config}
        return path, {"peft_config": peft_config, "quantization_config": quantization}
    set_seed(args.seed)
    args.model_init_kwargs = None
    init |= {"quantization_config": quantization, "trust_remote_code": args.trust_remote_code, "revision": None}
    if args.world_size > 1:
        init["device_map"] = None
    base = (create_model_from_path if lender is None else lender.lend)(_adapter_base(path), **init)
    reference = "" if recipe.kind == "sft" else "; the reference is a frozen copy of it, not the bare base"
    statements.append(f"Continues the adapter {path}{reference}.")
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
    return adapter_folder.base_of(Path(find_adapter_config_file(path)).parent)
