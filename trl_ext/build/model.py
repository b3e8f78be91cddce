"""Load the base model of a recipe and the adapter that is trained on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, set_seed
from transformers.utils.peft_utils import find_adapter_config_file
from trl import ModelConfig

from trl_ext import demo
from trl_ext.build import adapter_fit, lora_targets, pretrained, quantised_base
from trl_ext.checks import sharding
from trl_ext.checks.model_arguments import loading_arguments, unknown
from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.model_files import adapter_types, task
from trl_ext.model_files.adapter_types import Use
from trl_ext.model_files.quantised import Stored
from trl_ext.recipe import Recipe
from trl_ext.support import quiet
from trl_ext.support.errors import UserError

if TYPE_CHECKING:
    from trl_ext.build.dtypes import Precision
    from trl_ext.build.shared_base import SharedBase


def model_path(recipe: Recipe) -> str:
    """Path or Hub name of the model; `embedded` is the one that ships with the package."""
    name = recipe.get("model_name_or_path")
    return str(demo.MODEL) if name == EMBEDDED else name


def adapter_base(path: str) -> str:
    """Path or Hub name of the base of an adapter."""
    return adapter_folder.base_of(Path(find_adapter_config_file(path)).parent)


def base_revision(recipe: Recipe) -> str:
    """Commit, branch or tag of the base of a recipe's adapter on the Hub.

    For an adapter in a local folder, `model_revision` is the revision of its base.
    """
    path = model_path(recipe)
    own = recipe.get("model_revision") if Path(path).is_dir() else None
    return own or adapter_folder.revision_of(Path(find_adapter_config_file(path)).parent) or "main"


def stored_as(recipe: Recipe) -> Stored | None:
    """How the base of a recipe is stored; `None` if it is not quantised.

    Raises:
        UserError: It cannot be trained, or settings of the recipe contradict it.
    """
    path = model_path(recipe)
    if find_adapter_config_file(path) is not None:
        return quantised_base.require(recipe, adapter_base(path), base_revision(recipe), is_continued=True)
    return quantised_base.require(recipe, path, recipe.get("model_revision"))


def require_policy(recipe: Recipe) -> None:
    """Refuse a reward model, or an adapter that cannot be continued exactly, as the model of a policy.

    `trl-ext validate` reads folders (`trl_ext.checks.task`, `trl_ext.checks.continued_adapter`); this reads models on the Hub too.

    Raises:
        UserError: What it is, and what to name instead.
    """
    method, path, stored = recipe.method, model_path(recipe), stored_as(recipe)
    if method.trains_scores:
        return
    found = find_adapter_config_file(path)
    if found is not None:
        use = Use(
            is_continued=True,
            needs_reference=method.may_need_reference,
            shares_base=method.samples_completions,
            is_quantised=bool(
                recipe.get("load_in_4bit") or recipe.get("load_in_8bit") or (stored and stored.stays_quantised)
            ),
        )
        problem = adapter_types.problem(adapter_folder.config(Path(found).parent), use)
    else:
        content, _ = PreTrainedConfig.get_config_dict(path, revision=recipe.get("model_revision") or "main")
        what = task.of_architecture(content.get("architectures"))
        problem = what and f"It is {what}, and {method.title} needs a language model as the policy."
    if problem is not None:
        raise UserError(f"`model_name_or_path` is {path}. {problem}")


def require_model_arguments(recipe: Recipe, args: Any) -> None:
    """UserError if `model_init_kwargs` has a name that the model, also one on the Hub, cannot be loaded with."""
    path, given = model_path(recipe), args.model_init_kwargs or {}
    if not given or find_adapter_config_file(path) is not None:
        return
    config, unused = AutoConfig.from_pretrained(
        path,
        revision=recipe.get("model_revision") or "main",
        trust_remote_code=args.trust_remote_code,
        return_unused_kwargs=True,
        **{name: value for name, value in given.items() if name not in ("revision", "trust_remote_code")},
    )
    allowed = loading_arguments() | set(dir(config))
    problems = [
        unknown("`model_init_kwargs`", name, recipe.get("model_name_or_path"), allowed)
        for name in given
        if name in unused and name not in loading_arguments()
    ]
    if problems:
        raise UserError(problems)


def load_policy(
    recipe: Recipe, args: Any, chosen: Precision, statements: list[str], lender: SharedBase | None = None
) -> tuple[Any, dict[str, Any]]:
    """The model argument of the trainer, and the adapter and quantisation arguments that go with it.

    If the path is an adapter, it is trained further: the base is loaded, the adapter put on it, and the reference is a
    frozen copy of that adapter instead of the base.

    Args:
        recipe: A loaded recipe.
        args: The trainer's configuration, whose `model_init_kwargs` are set for the trainer that gets a path.
        chosen: Dtypes.
        statements: Sentences for the log are appended here.
        lender: Lends the base if several trainers share one.
    """
    quiet.hide_loading_bars()
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    values = {name: value for name, value in recipe.sections()["model"].items() if name in known}
    model_args = ModelConfig(**values | {"dtype": chosen.model_dtype})
    is_sharded = sharding.is_on(recipe.get("fsdp"))
    stored = stored_as(recipe)
    if stored is None:
        quantization = pretrained.quantisation(model_args, chosen.compute_dtype, is_sharded=is_sharded)
    else:
        quantization = quantised_base.for_loading(stored)
    if stored is None and is_sharded and model_args.load_in_4bit and model_args.bnb_4bit_quant_storage is None:
        quantization.bnb_4bit_quant_storage = chosen.compute_dtype  # bytes cannot be sharded
    path = model_path(recipe)
    init = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(args.model_init_kwargs or {}),
    }
    for_loading = init | {"quantization_config": quantization, "trust_remote_code": args.trust_remote_code}
    if stored is not None:
        for_loading["compute_dtype"] = chosen.compute_dtype
    if is_sharded or args.world_size > 1:
        # FSDP moves layer by layer to the GPU, where the whole 4-bit base may not fit.
        for_loading["device_map"] = {"": "cpu"} if is_sharded and quantization is not None else None
    if find_adapter_config_file(path) is not None:
        args.model_init_kwargs = None
        is_base = recipe.get("reference") == "base"
        which = "the base model without it" if is_base else "a frozen copy of it, not the base model"
        reference = f"; the reference is {which}" if recipe.needs_reference else ""
        statements.append(f"Training continues the adapter {path}{reference}.")
        return _continued(path, args, for_loading | {"revision": base_revision(recipe)}, lender), {}
    peft_config = _new_adapter(recipe, args, model_args, statements)
    if peft_config is not None and lender is not None:
        args.model_init_kwargs = None
        return lender.lend(path, **for_loading), {"peft_config": peft_config}
    if stored is not None or (is_sharded and quantization is not None):
        # TRL would load the former with the dtypes it was written for, and the latter on the GPU.
        args.model_init_kwargs = None
        return pretrained.load(path, **for_loading, **_class_of_scores(recipe)), {"peft_config": peft_config}
    args.model_init_kwargs = init
    return path, {"peft_config": peft_config, "quantization_config": quantization}


def _class_of_scores(recipe: Recipe) -> dict[str, Any]:
    """Arguments that load a model with a head for one score, if that is trained."""
    return {"kind": AutoModelForSequenceClassification, "num_labels": 1} if recipe.method.trains_scores else {}


def _continued(path: str, args: Any, init: dict[str, Any], lender: SharedBase | None) -> PeftModel:
    """An adapter on its base, to be trained further."""
    trust = bool(init.get("trust_remote_code"))
    adapter_fit.check(path, adapter_base(path), init["revision"], trust_remote_code=trust, reads_head=True)
    set_seed(args.seed)
    base = (pretrained.load if lender is None else lender.lend)(adapter_base(path), **init)
    return PeftModel.from_pretrained(base, path, is_trainable=True)


def _new_adapter(recipe: Recipe, args: Any, model_args: ModelConfig, statements: list[str]) -> PeftConfig | None:
    """The adapter a recipe asks for; `None` if all weights are trained."""
    from trl import get_peft_config  # 2 s that only training needs

    peft_config = get_peft_config(model_args)
    if peft_config is None:
        statements.append("All weights are trained: `use_peft` is off, so there is no adapter.")
        return None
    peft_config.revision = recipe.get("model_revision")  # so that the adapter is later loaded on the same weights
    peft_config.target_modules = lora_targets.as_given(recipe, peft_config.target_modules)
    targets = lora_targets.check(
        model_path(recipe),
        peft_config.target_modules,
        model_args.model_revision,
        args.trust_remote_code,
        peft_config.target_parameters,
    )
    peft_config.target_modules = targets.modules
    if targets.is_mixture:
        statements.append(_about_experts(targets, model_args.load_in_4bit and not sharding.is_on(recipe.get("fsdp"))))
    if recipe.method.trains_scores:
        peft_config.task_type = "SEQ_CLS"
        peft_config.modules_to_save = sorted({*(peft_config.modules_to_save or ()), "score"})
    if peft_config.lora_dropout and getattr(args, "disable_dropout", False) and "lora_dropout" in recipe.explicit:
        statements.append(
            "`lora_dropout` has no effect because `disable_dropout` is on, TRL's default, which gives policy and reference "
            "the same network. Set `disable_dropout: false` to use dropout."
        )
    if targets.has_experts and getattr(args, "disable_dropout", False):
        peft_config.lora_dropout = 0.0  # PEFT refuses dropout on experts even if it is disabled
    if targets.has_experts and getattr(args, "use_vllm", False):
        raise UserError(
            "`use_vllm` needs the policy as plain weights, which cannot be built from a LoRA on experts. Leave experts out of "
            "`lora_target_parameters` and `lora_target_modules`, or remove `use_vllm`."
        )
    if targets.has_experts and peft_config.lora_dropout:
        raise UserError(
            f"`lora_dropout` is {peft_config.lora_dropout:g}, and PEFT has no dropout for a LoRA on experts. Set `lora_dropout: 0`, or "
            "leave experts out of `lora_target_parameters` and `lora_target_modules`."
        )
    return peft_config


def _about_experts(targets: lora_targets.Targets, is_4bit: bool) -> str:
    stored = "in 4 bits" if is_4bit else "as they are"
    if targets.has_experts:
        return f"The model is a mixture of experts, stored {stored}. Experts are among the targets of the LoRA."
    return (
        f"The model is a mixture of experts, stored {stored}. The LoRA is on the linear layers outside the experts; name experts "
        "in `lora_target_parameters` to train them, too."
    )
