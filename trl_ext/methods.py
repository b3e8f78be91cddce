"""The kinds of training, one entry each: everything the rest of the code has to know about a kind stands here.

Code that depends on the kind of training asks its entry (`recipe.method`) and never compares names. Trainers, functions and
modules are named by dotted paths, so that reading this table imports nothing heavy. How to add a kind: CONTRIBUTING.md.
"""

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Any, Literal

Reads = Literal["pairs", "labelled", "prompts", "demonstrations"]


@dataclass(frozen=True)
class Method:
    """One kind of training.

    Attributes:
        name: Its key in `METHODS`.
        title: What it is called in a sentence.
        objective: What it minimises, for kinds without a `loss`; empty for the others.
        is_default: Trained by recipes without `trainer`; the loss then decides which of these kinds it is.
        has_loss: Trains a loss of `trl_ext.losses`, chosen by `loss`.
        trainer: Trainer class, as "module:name".
        config: Its configuration class.
        reads: The rows it learns from: pairs of completions, single completions with a label, prompts, or demonstrations.
        unit: What one such row is called, in the plural.
        completions: Names of the completions in a row.
        token_columns: Columns of token ids that its data has once it is tokenised.
        tokenised_by: The TRL trainer whose `_prepare_dataset` tokenises its data; `None` where prompts are tokenised as
            completions are sampled.
        drops_long_rows: A row longer than `max_length` is dropped; otherwise it is cut.
        length_key: The setting that limits the length of what is trained on.
        samples_completions: Completions are sampled during training.
        follows_trl: Takes the settings of TRL's trainer of the same name, in which `beta` is the KL coefficient; the general trainer
            of policy gradients does the work.
        cuts_rows: An optimizer step on examples of the data is one batch, cut into rows by `row_tokens`. Kinds that sample cut
            their rollouts likewise; the others run whole micro-batches.
        has_kl: Its objective has a KL to the reference, times a coefficient. Without one, the loss decides whether reference
            log-probabilities are needed, and kinds without a loss need none (`Recipe.needs_reference`).
        trains_scores: Trains a scalar head in place of the language-modelling head.
        evaluation_metrics: Names of the metrics of an evaluation, besides those that transformers adds; `*` stands for the name of
            a reward function. Some depend on the loss (`trl_ext.checks.evaluation`).
        more_settings: Classes besides `config` whose fields are keys of its recipes, by their names in
            `trl_ext.recipe.schema.SOURCES`. Every recipe has the keys of model and data.
        planner: Function from a recipe to what `trl_ext.planner` counts, as "module:name".
        summary: Function from a recipe to the lines that `trl-ext validate` prints about this kind.
        large_panels: The large panels of its curves, by their keys in `trl_ext.report.panels`.
    """

    name: str
    title: str
    trainer: str
    config: str
    reads: Reads
    unit: str
    completions: tuple[str, ...]
    token_columns: tuple[str, ...]
    planner: str
    summary: str
    large_panels: tuple[str, ...]
    tokenised_by: str | None = None
    objective: str = ""
    is_default: bool = False
    has_loss: bool = False
    drops_long_rows: bool = False
    length_key: str = "max_length"
    samples_completions: bool = False
    follows_trl: bool = False
    cuts_rows: bool = False
    has_kl: bool = False
    trains_scores: bool = False
    evaluation_metrics: tuple[str, ...] = ()
    more_settings: tuple[str, ...] = ()

    def classes(self) -> tuple[type, type]:
        """Import its trainer and configuration classes."""
        return imported(self.trainer), imported(self.config)

    def with_gold(self) -> "Method":
        """This kind with a third completion in each row."""
        return dataclasses.replace(
            self, completions=(*self.completions, "gold"), token_columns=(*self.token_columns, "gold_ids")
        )

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the classes whose fields are keys of its recipes, besides those of model and data."""
        return (self.config.partition(":")[2], *self.more_settings)

    @property
    def is_paired(self) -> bool:
        """Whether it compares two completions of a prompt that the data holds."""
        return self.reads == "pairs"

    @property
    def may_need_reference(self) -> bool:
        """Whether reference log-probabilities are ever needed."""
        return self.has_kl or self.has_loss

    @property
    def reads_preferences(self) -> bool:
        """Whether its data says which completions are better, by pairs or by labels."""
        return self.reads in ("pairs", "labelled")


# Metrics of evaluations, for `Method.evaluation_metrics`.
OF_TOKENS = ("entropy", "num_tokens", "aux_loss")
OF_PAIRS = ("rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected")
OF_LABELLED = (
    "rewards/margins",
    *(f"{name}/chosen" for name in ("rewards", "logps", "logps_per_token", "log_ratio", "logits")),
    *(f"{name}/rejected" for name in ("rewards", "logps", "logps_per_token", "log_ratio", "logits")),
    *OF_TOKENS,
)
OF_SAMPLES = (
    "score", "score/std", "reward", "reward_std", "rewards/*/mean", "rewards/*/std", "kl/sequence", "kl/k1", "kl/k2", "kl/k3",
    *(f"completions/{name}" for name in ("mean_length", "min_length", "max_length", "clipped_ratio", "eos_share", "left_out")),
    *(f"completions/{name}_terminated_length" for name in ("mean", "min", "max")), *OF_TOKENS,
)  # fmt: skip
OF_PPO = (
    "shaped_reward", "advantages/std", "groups/ties", "frac_reward_zero_std", "values/mean", "returns/mean", "explained_variance",
    "policy_loss", "clip_fraction/policy", "clip_fraction/low", "clip_fraction/high", "kl_loss", "kl_coef", "kl_weight/mean",
    "kl_weight/max",
)  # fmt: skip

METHODS = {
    method.name: method
    for method in (
        Method(
            name="paired",
            title="a loss on pairs",
            trainer="trl_ext.trainers.preference.paired:PairedPreferenceTrainer",
            config="trl_ext.trainers.preference.config:PairedPreferenceConfig",
            is_default=True,
            has_loss=True,
            reads="pairs",
            unit="pairs",
            completions=("chosen", "rejected"),
            evaluation_metrics=("rewards/accuracies", *OF_LABELLED, "mean_token_accuracy"),
            token_columns=("prompt_ids", "chosen_ids", "rejected_ids"),
            tokenised_by="trl:DPOTrainer",
            cuts_rows=True,
            planner="trl_ext.planner.training:preferences",
            summary="trl_ext.cli.summary:preferences",
            large_panels=("margin", "log_ratio", "loss"),
        ),
        Method(
            name="unpaired",
            title="a loss on labelled completions",
            trainer="trl_ext.trainers.preference.unpaired:UnpairedPreferenceTrainer",
            config="trl_ext.trainers.preference.config:UnpairedPreferenceConfig",
            is_default=True,
            has_loss=True,
            reads="labelled",
            unit="completions",
            completions=("completion",),
            evaluation_metrics=(*OF_LABELLED, "kl"),
            token_columns=("prompt_ids", "completion_ids"),
            tokenised_by="trl:KTOTrainer",
            cuts_rows=True,
            planner="trl_ext.planner.training:preferences",
            summary="trl_ext.cli.summary:preferences",
            large_panels=("margin", "log_ratio", "loss"),
        ),
        Method(
            name="ppo",
            title="PPO",
            trainer="trl_ext.trainers.ppo.trainer:PPOTrainer",
            config="trl_ext.trainers.ppo.config:PPOConfig",
            more_settings=("RewardExtras",),
            reads="prompts",
            unit="prompts",
            completions=(),
            evaluation_metrics=(*OF_SAMPLES, *OF_PPO),
            token_columns=("prompt_ids",),
            length_key="max_completion_length",
            samples_completions=True,
            has_kl=True,
            planner="trl_ext.planner.training:sampled",
            summary="trl_ext.cli.summary:ppo",
            large_panels=("score", "kl", "length"),
        ),
        Method(
            name="online",
            title="a loss on sampled pairs",
            trainer="trl_ext.trainers.online.trainer:OnlinePreferenceTrainer",
            config="trl_ext.trainers.online.config:OnlinePreferenceConfig",
            more_settings=("RewardExtras",),
            has_loss=True,
            reads="prompts",
            unit="prompts",
            completions=(),
            evaluation_metrics=(*OF_SAMPLES, "score/margin", "pairs/ties", *OF_PAIRS),
            token_columns=("prompt_ids",),
            length_key="max_completion_length",
            samples_completions=True,
            planner="trl_ext.planner.training:sampled",
            summary="trl_ext.cli.summary:online",
            large_panels=("score", "kl", "loss"),
        ),
        *(
            Method(
                name=name,
                title=name.upper(),
                trainer=f"trl_ext.trainers.{name}.trainer:{name.upper()}Trainer",
                config=f"trl_ext.trainers.{name}.config:{name.upper()}Config",
                more_settings=("RewardExtras",),
                reads="prompts",
                unit="prompts",
                completions=(),
                evaluation_metrics=(*OF_SAMPLES, *OF_PPO),
                token_columns=("prompt_ids",),
                length_key="max_completion_length",
                samples_completions=True,
                has_kl=True,
                follows_trl=True,
                planner="trl_ext.planner.training:sampled",
                summary="trl_ext.cli.summary:ppo",
                large_panels=("score", "kl", "length"),
            )
            for name in ("rloo", "grpo")
        ),
        Method(
            name="reward",
            title="a reward model",
            objective="reward model: −log σ(r(chosen) − r(rejected))",
            trainer="trl_ext.trainers.sft_and_reward:RewardModelTrainer",
            config="trl_ext.trainers.sft_and_reward:RewardModelConfig",
            reads="pairs",
            unit="pairs",
            completions=("chosen", "rejected"),
            evaluation_metrics=("accuracy", "margin", "mean_reward", "min_reward", "max_reward", *OF_TOKENS[1:]),
            token_columns=("chosen_ids", "rejected_ids"),  # prompts included
            tokenised_by="trl:RewardTrainer",
            drops_long_rows=True,
            trains_scores=True,
            planner="trl_ext.planner.training:micro_batches",
            summary="trl_ext.cli.summary:without_loss",
            large_panels=("reward_model_margin", "accuracy", "loss"),
        ),
        Method(
            name="sft",
            title="supervised fine-tuning",
            objective="supervised fine-tuning: −log π of the completion's tokens",
            trainer="trl_ext.trainers.sft_and_reward:SupervisedTrainer",
            config="trl_ext.trainers.sft_and_reward:SupervisedConfig",
            reads="demonstrations",
            unit="completions",
            completions=("completion",),
            evaluation_metrics=("mean_token_accuracy", *OF_TOKENS),
            token_columns=("input_ids", "labels"),
            tokenised_by="trl:SFTTrainer",
            planner="trl_ext.planner.training:micro_batches",
            summary="trl_ext.cli.summary:without_loss",
            large_panels=("loss", "token_accuracy", "entropy"),
        ),
    )
}
"""Every kind of training by name."""

TRAINERS = {name: method for name, method in METHODS.items() if not method.is_default}
"""The kinds that a recipe chooses by `trainer: NAME`."""


def of(trainer: str | None, *, is_paired: bool = True) -> Method:
    """The kind of training of a recipe.

    Args:
        trainer: The value of `trainer`, if the recipe has one.
        is_paired: Whether its loss reads pairs; matters without `trainer` only.
    """
    if trainer is not None:
        return METHODS[trainer]
    return next(method for method in METHODS.values() if method.is_default and method.is_paired == is_paired)


def imported(path: str) -> Any:
    """The object that a "module:name" of the table stands for."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
