"""What PPO and online preference training have in common as trainers: how they are constructed, and the order of prompts."""

from typing import Any

import torch
from trl import RLOOTrainer
from trl.trainer.utils import RepeatSampler

from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.trainers.common import lora, out_of_memory
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.rollout import reward_functions, vllm_weights

ROOM = "`per_device_train_batch_size`, `max_completion_length` or `lora_r`, or set `gradient_checkpointing: true`"


class RolloutTrainer(RLOOTrainer):
    """`trl.RLOOTrainer` on one base that stays as it was loaded; overrides `train`, `evaluate` and `_get_train_sampler`.

    1. The reward adapter of the configuration is the last source of reward, on the same base;
    2. adapter weights are float32 (`trl_ext.trainers.common.lora`);
    3. the order of prompts is a function of seed and epoch, and so survives a resume;
    4. memory that runs out outside of an update ends in a sentence.

    Attributes of the parents read: `num_generations`, `num_iterations`, `shuffle_dataset`, `use_vllm`, `vllm_generation`.
    """

    def __init__(self, model: Any, sources: list, args: Any, **given: Any) -> None:
        """As TRL's trainer.

        Args:
            sources: Reward functions and models.

        Raises:
            ValueError: The reward adapter is none, or of another base.
        """
        sources, adapter, given["reward_processing_classes"] = reward_functions.complete(
            sources, args, model, given.get("reward_processing_classes")
        )
        self._sums = {"train": MeanMetrics(), "eval": MeanMetrics()}
        weights = lora.snapshot(model)
        super().__init__(model, reward_funcs=sources, args=args, **given)
        keep_exact_cpu_kernels(self.model)
        lora.restore(self.model, weights, dtype=torch.float32)
        if adapter is not None:
            adapter.attach(self)
        if self.use_vllm:  # which TRL gives weights one by one, by name (`tests/trainers/rollout/test_generation.py`)
            self.vllm_generation._iter_named_params = lambda: vllm_weights.named_weights(self.model)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with out_of_memory.saying("in training", f"lower {ROOM}"):
            return super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with out_of_memory.saying("in evaluation", "lower `per_device_eval_batch_size` or `max_completion_length`"):
            return super().evaluate(*args, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> "ResumableSampler":
        return ResumableSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )


class ResumableSampler(RepeatSampler):
    """TRL's sampler with an order that depends on seed and epoch alone; TRL's resumes every epoch as the first."""

    def set_epoch(self, epoch: int) -> None:
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)
