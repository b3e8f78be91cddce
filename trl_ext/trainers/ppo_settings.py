"""What PPO refuses before a run, its KL controller, and a guard against casts during generation."""

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from itertools import chain
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import ProcessorMixin

from trl_ext.rl import kl
from trl_ext.rules import ppo as rules
from trl_ext.rules import sampling
from trl_ext.trainers import lora, merged_weights, roles
from trl_ext.trainers.ppo_config import Given, PPOConfig


class SettingsWarning(UserWarning):
    """What a recipe's notes say too: the settings do something else than one may think."""


def notes(args: PPOConfig) -> list[str]:
    """What works and may not be what was meant, a sentence each."""
    cell = args.kl_estimator, args.kl_placement, args.kl_level
    warning = kl.warning(*cell, args.gamma) if args.kl_coef else None
    return [*([warning] if warning else []), *rules.notes(Given(args))]


def note_on_model(trainer: Any) -> str | None:
    """A sentence if a setting of the model's own generation_config.json changes what is sampled."""
    if trainer.use_vllm:
        return None
    inherited = trainer.model.generation_config.to_diff_dict()
    return sampling.sampling_of_model(
        {key: value for key, value in inherited.items() if key not in trainer.generation_kwargs}
    )


def refuse_data(args: PPOConfig, dataset: Any) -> None:
    """ValueError if there are too few prompts for a single rollout, from which nothing would be trained."""
    prompts = args.generation_batch_size // args.num_generations
    if isinstance(dataset, Sized) and len(dataset) < prompts:
        raise ValueError(
            f"The training data has {len(dataset)} prompts and a rollout takes {prompts}, so there would be none: give more "
            "prompts, or lower `per_device_train_batch_size`, `gradient_accumulation_steps` or `steps_per_generation`."
        )


def controller(args: PPOConfig) -> kl.FixedController:
    """The KL controller of a configuration."""
    if args.kl_controller == "fixed":
        return kl.FixedController(args.kl_coef)
    return kl.AdaptiveController(args.kl_coef, target=args.kl_target, horizon=args.kl_horizon)


def refuse(args: Any, model: Any, sources: list, processing_class: Any, optimizers: tuple, peft_config: Any) -> None:
    """Raises for settings that cannot work, before any weights are loaded.

    Raises:
        TypeError: `args` is no `PPOConfig`.
        ValueError: Everything else.
    """
    if not isinstance(args, PPOConfig):
        raise TypeError(
            f"PPOTrainer takes a PPOConfig, not a {type(args).__name__}; it has all of RLOOConfig's fields and the KL's."
        )
    if not sources and args.reward_adapter is None:
        raise ValueError(
            "PPO has no source of reward: give `reward_funcs` (functions, or a sequence classifier), or "
            "`reward_adapter`, the folder of a reward model trained as an adapter."
        )
    if peft_config is None and not lora.has_adapter(model):
        raise ValueError(
            "PPO keeps policy, reference and critic on one base, told apart by adapters: give `peft_config` (a "
            "LoraConfig), or a model with an adapter."
        )
    if isinstance(processing_class, ProcessorMixin):
        raise ValueError("PPO's critic reads text alone, and this is a vision-language processor: give a tokenizer.")
    if args.deepspeed_plugin is not None or args.fsdp:
        raise ValueError(
            "DeepSpeed and FSDP shard the model, and the critic runs past their wrappers: launch with plain "
            "`accelerate launch --multi_gpu` (one full 4-bit copy per GPU) or on a single GPU."
        )
    if any(part is not None for part in optimizers):
        raise ValueError(
            "`optimizers` were given, and the critic's parameters do not exist yet: choose the optimizer by `optim` and "
            "`lr_scheduler_type`."
        )
    optimizer = str(getattr(args.optim, "value", args.optim))
    if "lomo" in optimizer or "layerwise" in optimizer:
        raise ValueError(
            f"`optim: {optimizer}` updates weights inside the backward pass, and policy and critic are clipped apart after "
            "theirs: choose another, for instance adamw_torch or paged_adamw_8bit."
        )
    if (init := lora.takes_from_the_base(peft_config)) is not None:
        raise ValueError(
            f"The adapter starts as {init!r}, which takes its share out of the base: with the adapter off the base is not "
            "the model the run starts from, and no reference for it. Use the default `init_lora_weights`."
        )
    adapters = list(model.peft_config.values()) if isinstance(model, PeftModel) else [peft_config]
    for adapter in adapters:
        if adapter.is_prompt_learning:
            raise ValueError("PPO switches adapters in the middle of a step, which prompt learning cannot: use LoRA.")
        if getattr(adapter, "bias", "none") != "none":
            raise ValueError(
                f"The adapter trains biases (bias={adapter.bias!r}), which switching it off does not undo: the "
                "reference would drift with the policy. Use bias='none'."
            )
        if args.use_vllm:
            merged_weights.check(adapter)
    taken = {roles.CRITIC, roles.REWARD} & set(getattr(model, "peft_config", None) or ())
    if taken:
        raise ValueError(
            f"The model already has an adapter named {taken.pop()!r}, a name PPO gives itself: load only the policy's "
            "adapter."
        )


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Inside, `model` may be cast to another dtype; afterwards its tensors are the very ones they were."""
    before = [(tensor, tensor.data) for tensor in chain(model.parameters(), model.buffers())]
    try:
        yield
    finally:
        for tensor, data in before:
            tensor.data = data
