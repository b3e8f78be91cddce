"""Refuse what no trainer that samples completions can work with, before weights are loaded."""

from collections.abc import Sized
from typing import Any

from transformers import ProcessorMixin

from trl_ext.checks import launch
from trl_ext.support.counts import count
from trl_ext.trainers.common import adapters, empty_data, lora
from trl_ext.trainers.rollout import reward_columns, vllm_weights


def refuse(args: Any, model: Any, sources: list, given: dict[str, Any]) -> None:
    """ValueError for settings that cannot work, before any weights are loaded.

    Args:
        args: The trainer's configuration.
        model: The policy, or its path.
        sources: Reward functions and models.
        given: The other arguments of the trainer; missing or `None` if not given.
    """
    if not sources and args.reward_adapter is None:
        raise ValueError(
            "There is no source of reward. Give `reward_funcs` (functions, or a sequence classifier) or `reward_adapter` (the "
            "folder of a reward model trained as an adapter)."
        )
    peft_config = given.get("peft_config")
    if peft_config is None and not lora.has_adapter(model):
        raise ValueError(
            "There is no adapter, but policy and reference share one base model and differ only by an adapter. Give "
            "`peft_config` (a LoraConfig), or a model with an adapter."
        )
    if isinstance(given.get("processing_class"), ProcessorMixin):
        raise ValueError(
            "`processing_class` is a vision-language processor, but prompts must be text. Give a tokenizer."
        )
    if problem := launch.launched_sharded(args):
        raise ValueError(problem)
    adapters.refuse(model, peft_config, quantization_config=given.get("quantization_config"), shares_base=True)
    if args.use_vllm:
        for adapter in adapters.in_training(model, peft_config):
            vllm_weights.check(adapter)
    empty_data.refuse(train_dataset=given.get("train_dataset"), eval_dataset=given.get("eval_dataset"))
    refuse_few_prompts(args, given.get("train_dataset"))
    if problem := reward_columns.problem(sources, args, given.get("train_dataset"), given.get("eval_dataset")):
        raise ValueError(problem)


OF_AGENTS = {
    "tools": "completions are sampled in a single turn, without tools",
    "environment_factory": "completions are sampled in a single turn, without an environment",
    "rollout_func": "completions are sampled by transformers or vLLM",
}
"""Arguments of TRL's GRPO trainer that are not reproduced, and why."""


def refuse_tools(given: dict[str, Any]) -> None:
    """ValueError for arguments in `OF_AGENTS`; removes those that are `None`."""
    for name, why in OF_AGENTS.items():
        if given.pop(name, None) is not None:
            raise ValueError(f"`{name}` is not reproduced: {why}. Train with TRL's GRPOTrainer for that.")


def require(config: type, args: Any, trainer: Any) -> None:
    """TypeError if the configuration is not the trainer's own."""
    if not isinstance(args, config):
        raise TypeError(f"{type(trainer).__name__} takes a {config.__name__}, not a {type(args).__name__}.")


def prompts_per_rollout(args: Any) -> int:
    """Prompts of a rollout, over all processes."""
    return args.generation_batch_size // args.num_generations


def refuse_few_prompts(args: Any, dataset: Any) -> None:
    """ValueError if there are too few prompts for a single rollout, so that nothing would be trained."""
    needed = prompts_per_rollout(args)
    if isinstance(dataset, Sized) and len(dataset) < needed:
        raise ValueError(
            f"The training data has {count(len(dataset), 'prompts')}, but a rollout needs {needed}. Give more prompts, or lower "
            "`per_device_train_batch_size`, `gradient_accumulation_steps` or `steps_per_generation`."
        )
