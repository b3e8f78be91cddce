"""Train the stages before PPO by TRL's own trainers: supervised fine-tuning and the reward model.

Differences from the TRL trainers:

1. Adapter weights are float32 (`trl_ext.trainers.common.lora`).
2. The 4-bit base is not changed (`trl_ext.support.frozen_base`).
3. A step that is not finite is not taken (`trl_ext.trainers.common.nonfinite`).
4. Checkpoints are saved atomically (`trl_ext.trainers.common.staged_checkpoint`).
5. The model card contains the settings of the recipe.
6. LoRA is added into the output of its layer, and norms and MLPs store fewer tensors (`trl_ext.trainers.common.fused_kernels`).
7. The loss of a streamed evaluation set is the mean over its examples (`trl_ext.trainers.common.streams`).
8. The defaults of the chat template's variables are kept (`trl_ext.trainers.common.template_defaults`).
9. A micro-batch checkpoints only as many layers as it needs to fit, and is repeated if memory runs out
   (`trl_ext.trainers.common.whole_micro_batches`).
"""

from dataclasses import dataclass
from typing import Any

from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from trl_ext import checks
from trl_ext.data import margins
from trl_ext.trainers.common import empty_data
from trl_ext.trainers.common.checkpoint_options import CheckpointOptions
from trl_ext.trainers.common.kernel_options import KernelOptions
from trl_ext.trainers.common.model_card import ModelCard
from trl_ext.trainers.common.nonfinite import FiniteStepOptions, FiniteSteps
from trl_ext.trainers.common.recompute_options import RecomputeOptions
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint
from trl_ext.trainers.common.streams import StreamedEvaluation
from trl_ext.trainers.common.template_defaults import TemplateDefaults
from trl_ext.trainers.common.whole_micro_batches import WholeMicroBatches


@dataclass
class SupervisedConfig(FiniteStepOptions, CheckpointOptions, KernelOptions, RecomputeOptions, SFTConfig):
    """`trl.SFTConfig`, with `fused_kernels`, `gradient_checkpointing: auto` and what a resume may change."""

    def __post_init__(self) -> None:
        self._read_switches()
        checks.refuse(self, "sft")
        with self._auto_withheld():
            super().__post_init__()


@dataclass
class RewardModelConfig(FiniteStepOptions, CheckpointOptions, KernelOptions, RecomputeOptions, RewardConfig):
    """`trl.RewardConfig`, with `fused_kernels`, `gradient_checkpointing: auto` and what a resume may change."""

    def __post_init__(self) -> None:
        self._read_switches()
        checks.refuse(self, "reward")
        with self._auto_withheld():
            super().__post_init__()


class SupervisedTrainer(FiniteSteps, StagedCheckpoint, ModelCard, StreamedEvaluation, WholeMicroBatches, SFTTrainer):
    """`trl.SFTTrainer`: the mean log-probability of demonstrations, per token of a micro-batch."""

    _tag_names = ["trl", "trl-ext", "sft"]  # noqa: RUF012

    def __init__(
        self,
        model: Any,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        """As TRL's trainer. ValueError for data without a row."""
        empty_data.refuse(train_dataset=train_dataset, eval_dataset=eval_dataset)
        self._defaults = TemplateDefaults(processing_class)
        given = (model, args, data_collator, train_dataset, eval_dataset, processing_class)
        super().__init__(*given, **kwargs)
        self._defaults.put_back(self.processing_class)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, *args: Any, **kwargs: Any) -> Any:
        self._defaults.put_back(processing_class)
        self.chat_template = self._defaults.added(self.chat_template)
        return super()._prepare_dataset(dataset, processing_class, *args, **kwargs)

    def card_method(self) -> dict[str, str]:
        return {"method": "supervised fine-tuning (TRL's SFTTrainer)"}


class RewardModelTrainer(
    FiniteSteps, StagedCheckpoint, ModelCard, StreamedEvaluation, WholeMicroBatches, RewardTrainer
):
    """`trl.RewardTrainer`: −log σ(r(chosen) − r(rejected)); the reward is a linear head on the last token's hidden state.

    With an adapter, the run directory can be used as `PPOConfig.reward_adapter`.
    """

    _tag_names = ["trl", "trl-ext", "reward-trainer"]  # noqa: RUF012
    _sequences_per_example = 2

    def __init__(
        self,
        model: Any,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        """As TRL's trainer. ValueError for data without a row, or with a column `margin` that holds anything but finite numbers."""
        empty_data.refuse(train_dataset=train_dataset, eval_dataset=eval_dataset)
        margins.refuse({"train_dataset": train_dataset, "eval_dataset": eval_dataset}, margins.REWARD_MODEL)
        self._defaults = TemplateDefaults(processing_class)
        given = (model, args, data_collator, train_dataset, eval_dataset, processing_class)
        super().__init__(*given, **kwargs)
        self._defaults.put_back(self.processing_class)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        self._defaults.put_back(processing_class)
        dataset = margins.watched(dataset, dataset_name, margins.REWARD_MODEL)
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

    def card_method(self) -> dict[str, str]:
        return {"method": "reward model, −log σ(r(chosen) − r(rejected)) (TRL's RewardTrainer)"}
