"""Define the settings of GRPO: those of TRL's GRPO trainer, as settings of the general trainer.

Fields are annotated one per line with literal defaults: the recipe validator reads them from this source without
importing it.
"""

from dataclasses import dataclass, field

from trl_ext.checks import kl
from trl_ext.rl import grpo_losses
from trl_ext.trainers.ppo.config import PPOConfig


@dataclass
class GRPOConfig(PPOConfig):
    """`trl.GRPOConfig`: its settings mean what they mean there, and `kl_coef` is another name of `beta`.

    `loss_type` chooses `policy_objective` and `loss_aggregation` (`trl_ext.rl.grpo_losses`). The KL is in the loss, per
    token. Settings of TRL that are not reproduced have its defaults here, and `trl_ext.checks.grpo` refuses other values.
    """

    _method = "grpo"

    advantage: str = field(
        default="grpo",
        metadata={
            "help": "How rewards become advantages; `grpo` subtracts the mean reward of the prompt's completions and divides by "
            "their standard deviation. `trl-ext advantages` lists them."
        },
    )
    loss_type: str = field(
        default="dapo",
        metadata={
            "help": "The loss, as TRL names it. Mean over the tokens of each completion, then over completions: `grpo`. Sum over "
            "tokens divided by `max_completion_length`: `dr_grpo`. Mean over all tokens of the rollout: `dapo` and `bnpo`. Sum "
            "over tokens, mean over completions: `luspo`. Other surrogates than PPO's clipped one: `cispo`, `sapo` and `vespo`.",
            "choices": ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"],
        },
    )
    policy_objective: str | None = field(
        default=None,
        metadata={
            "help": "The surrogate of the policy gradient: `clipped` (PPO), `cispo`, `sapo` or `vespo` (default: that of "
            "`loss_type`)."
        },
    )
    loss_aggregation: str | None = field(
        default=None,
        metadata={
            "help": "How the losses of tokens become one number: `token`, `sequence`, `constant` or `sum` (default: that of "
            "`loss_type`)."
        },
    )
    importance_sampling_level: str | None = field(
        default="token",
        metadata={
            "help": "The ratio π/π_old that is clipped: of each `token`, of a `sequence` as the mean of its log-ratios (GSPO), or "
            "of a sequence as their sum (`sequence_sum`)."
        },
    )
    scale_rewards: str = field(
        default="group",
        metadata={
            "help": "Divide advantages by the standard deviation of the rewards of the `group` (or true), of the `batch`, or not at "
            "all: `none` (or false)."
        },
    )
    multi_objective_aggregation: str = field(
        default="sum_then_normalize",
        metadata={
            "help": "With several reward functions: `sum_then_normalize` compares their weighted sums, `normalize_then_sum` first "
            "normalises each function within a group (GDPO, arXiv:2601.05242).",
            "choices": ["sum_then_normalize", "normalize_then_sum"],
        },
    )
    beta: float = field(
        default=0.0,
        metadata={"help": "KL coefficient, as TRL names it."},
    )
    kl_coef: float | None = field(
        default=None,
        metadata={"help": "KL coefficient, in place of `beta` (default: `beta`)."},
    )
    kl_estimator: str | None = field(
        default=None,
        metadata={
            "help": "KL estimator: k1, k2, k3 or k3+, which has the value of k3 and the gradient of k2. Default: k3+, or k3 with "
            "`use_bias_correction_kl: false`."
        },
    )
    kl_placement: str = field(
        default="loss",
        metadata={
            "help": "Where the KL is applied: `reward` (subtracted from the reward) or `loss` (added to the loss)."
        },
    )
    kl_level: str | None = field(
        default="token",
        metadata={"help": "Estimate the KL per `token`, or from the log-ratio of the whole completion (`sequence`)."},
    )
    use_bias_correction_kl: bool = field(
        default=True,
        metadata={
            "help": "Multiply the KL of a token in the loss by its ratio π/π_old, which makes the gradient of k3 that of k2. Without "
            "it, the KL is k3 and has no ratio."
        },
    )
    num_generations: int | None = field(
        default=8,
        metadata={"help": "Completions per prompt, which are compared with each other."},
    )
    normalize_advantages: bool | None = field(
        default=False,
        metadata={
            "help": "Whiten the advantages of the completions of a rollout, to mean 0 and standard deviation 1."
        },
    )
    top_entropy_quantile: float = field(default=1.0, metadata={"help": "Not reproduced: 1 only."})
    entropy_coef: float = field(default=0.0, metadata={"help": "Not reproduced: 0 only."})
    use_adaptive_entropy: bool = field(default=False, metadata={"help": "Not reproduced: false only."})
    entropy_coef_min: float = field(default=0.0, metadata={"help": "Not reproduced: it belongs to `entropy_coef`."})
    entropy_coef_max: float = field(default=1.0, metadata={"help": "Not reproduced: it belongs to `entropy_coef`."})
    entropy_coef_delta: float = field(
        default=0.005, metadata={"help": "Not reproduced: it belongs to `entropy_coef`."}
    )
    entropy_target: float = field(default=0.2, metadata={"help": "Not reproduced: it belongs to `entropy_coef`."})
    off_policy_mask_threshold: float | None = field(default=None, metadata={"help": "Not reproduced: null only."})
    max_tool_calling_iterations: int | None = field(default=None, metadata={"help": "Not reproduced: null only."})
    cast_lm_head_to_fp32: bool = field(default=False, metadata={"help": "Not reproduced: false only."})
    log_completions_hub_repo: str | None = field(default=None, metadata={"help": "Not reproduced: null only."})
    vllm_importance_sampling_mode: str | None = field(
        default=None,
        metadata={
            "help": "One ratio per token (`token_…`) or per completion (`sequence_…`). `…_truncate` moves ratios outside the bounds "
            "to the bounds, `…_mask` sets them to 0. Default: sequence_mask with `use_vllm`, as in TRL, else token_truncate.",
            "choices": ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"],
        },
    )
    vllm_importance_sampling_cap: float | None = field(
        default=None,
        metadata={"help": "An older name of `vllm_importance_sampling_clip_max`."},
    )

    def _translate(self) -> None:
        self.kl_coef = kl.coefficient(self.__dict__.get)
        self.beta = self.kl_coef
        self.kl_estimator = kl.estimator(self.__dict__.get)
        self.scale_rewards = grpo_losses.scale(self.scale_rewards)
        for name, value in grpo_losses.of(self.loss_type).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.vllm_importance_sampling_mode is None:
            self.vllm_importance_sampling_mode = "sequence_mask" if self.use_vllm else "token_truncate"
        if self.vllm_importance_sampling_cap is not None:
            self.vllm_importance_sampling_clip_max = self.vllm_importance_sampling_cap
        if self.multi_objective_aggregation == "normalize_then_sum":
            self.scale_rewards = "batch"  # the mean of a group is 0 already
        if self.policy_objective == "cispo" and self.epsilon_high is None:
            self.epsilon_high = self.epsilon  # as in TRL; `trl_ext.checks.grpo` warns
