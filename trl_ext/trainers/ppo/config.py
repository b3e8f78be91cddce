"""Define the settings of PPO: those of TRL's RLOO trainer, of advantage and critic, and of the KL estimator and its placement.

Fields are annotated one per line with literal defaults: the recipe validator reads them from this source without
importing it.
"""

from dataclasses import dataclass, field

import trl

from trl_ext import checks
from trl_ext.rl import advantages, policy_gradient, truth_table
from trl_ext.trainers.common.checkpoint_options import CheckpointOptions
from trl_ext.trainers.common.flags import switch
from trl_ext.trainers.common.kernel_options import KernelOptions
from trl_ext.trainers.common.nonfinite import FiniteStepOptions
from trl_ext.trainers.common.recompute_options import RecomputeOptions
from trl_ext.trainers.common.row_options import RowOptions
from trl_ext.trainers.rollout import rollout_size
from trl_ext.trainers.rollout.sampling_options import SamplingOptions

RLOO_NEEDS_TWO = "RLOO requires at least 2 generations"
"""How the last check of `trl.RLOOConfig` begins. Not every advantage compares the completions of a prompt."""


@dataclass
class PPOConfig(
    FiniteStepOptions, CheckpointOptions, KernelOptions, RowOptions, RecomputeOptions, SamplingOptions, trl.RLOOConfig
):
    """`trl.RLOOConfig` with per-token rewards and a choice of advantage and of KL estimator.

    In TRL's fields, `num_iterations` is the number of epochs over a rollout, `epsilon` and `epsilon_high` clip the
    policy's ratio, and `normalize_advantages` whitens per-token advantages over the rollout. `kl_coef` replaces `beta`.
    Settings that are `None` have a default that depends on the advantage (`trl_ext.rl.policy_gradient`), which
    `__post_init__` fills in.
    """

    _method = "ppo"  # the key of this kind of training in `trl_ext.methods`

    advantage: str = field(
        default="gae",
        metadata={
            "help": "How rewards become advantages. `gae` learns a critic. `rloo`, `grpo`, `dr_grpo`, `reinforce_pp_baseline` and "
            "`opo` compare the completions of a prompt, `reinforce_pp` those of a rollout, and `remax` compares each with a "
            "greedy one: they need no critic. `trl-ext advantages` lists them."
        },
    )
    scale_rewards: str | None = field(
        default=None,
        metadata={
            "help": "Divide the advantages of `grpo` by the standard deviation of the rewards of the `group` or of the `batch`, or "
            "by `none` (default: group)."
        },
    )
    loss_aggregation: str | None = field(
        default=None,
        metadata={
            "help": "How the losses of tokens become one number: `token` (mean over all tokens of the rollout), `sequence` (mean over "
            "the tokens of each completion, then over completions), `constant` (sum over tokens divided by "
            "`max_completion_length`, mean over completions) or `sum` (sum over tokens, mean over completions). Default: that "
            "of the advantage's paper."
        },
    )
    policy_objective: str = field(
        default="clipped",
        metadata={
            "help": "The surrogate of the policy gradient: `clipped` (PPO), `cispo`, `sapo` or `vespo`.",
        },
    )
    importance_sampling_level: str | None = field(
        default=None,
        metadata={
            "help": "The ratio π/π_old that is clipped: of each `token`, of a `sequence` as the mean of its log-ratios (GSPO), or "
            "of a sequence as their sum (`sequence_sum`). Default: that of the advantage's paper."
        },
    )
    delta: float | None = field(
        default=None,
        metadata={
            "help": "Upper bound of the ratio π/π_old for negative advantages (two-sided clipping), above 1 + `epsilon_high`. "
            "Default: no bound."
        },
    )
    sapo_temperature_pos: float = field(
        default=1.0,
        metadata={"help": "`sapo`: temperature τ for positive advantages; a larger τ damps ratios far from 1 more."},
    )
    sapo_temperature_neg: float = field(
        default=1.05,
        metadata={"help": "`sapo`: temperature of the other tokens."},
    )
    vespo_k_pos: float = field(
        default=2.0,
        metadata={"help": "`vespo`: k for advantages of 0 or more, the power of the weight of a completion."},
    )
    vespo_lambda_pos: float = field(
        default=3.0,
        metadata={"help": "`vespo`: λ for advantages of 0 or more, the decay of large weights."},
    )
    vespo_k_neg: float = field(
        default=3.0,
        metadata={"help": "`vespo`: k for negative advantages."},
    )
    vespo_lambda_neg: float = field(
        default=2.0,
        metadata={"help": "`vespo`: λ for negative advantages."},
    )
    kl_coef: float = field(
        default=0.05,
        metadata={"help": "KL coefficient: reward subtracted per nat of KL(policy ‖ reference)."},
    )
    kl_estimator: str = field(
        default="k1",
        metadata={
            "help": "KL estimator: k1 = d, k2 = d²/2 or k3 = exp(−d) − 1 + d, with d = log π/π_ref; k3+ has the value of k3 and "
            "the gradient of k2."
        },
    )
    kl_placement: str = field(
        default="reward",
        metadata={
            "help": "Where the KL is applied: `reward` (subtracted from the reward) or `loss` (added to the loss). k1 in the "
            "reward and k2 at sequence level in the loss give the gradient of the reverse KL. Other combinations do not, "
            "and a warning explains which gradient they give."
        },
    )
    kl_level: str | None = field(
        default=None,
        metadata={
            "help": "Estimate the KL per `token`, or from the log-ratio of the whole completion (`sequence`). Default: token in "
            "the reward, sequence in the loss."
        },
    )
    kl_controller: str = field(
        default="fixed",
        metadata={
            "help": "`fixed` keeps `kl_coef` constant; `adaptive` adjusts it so that the KL approaches `kl_target`.",
            "choices": ["fixed", "adaptive"],
        },
    )
    kl_target: float | None = field(
        default=None,
        metadata={"help": "Target KL of the adaptive controller, in nats per completion."},
    )
    kl_horizon: int | None = field(
        default=None,
        metadata={"help": "Horizon of the adaptive controller, in completions (default: 10000)."},
    )
    gamma: float = field(
        default=1.0,
        metadata={"help": "Discount per token. Only with 1 is a KL in the reward that of whole completions."},
    )
    lam: float = field(
        default=0.95,
        metadata={"help": "λ of generalised advantage estimation (`gae`). With 1 the critic causes no bias."},
    )
    critic_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the critic's adapter and head (default: 10 × `learning_rate`)."},
    )
    vf_coef: float = field(
        default=0.1,
        metadata={
            "help": "Weight of the value loss. Critic and policy share no trained weights, so with Adam it has almost no effect."
        },
    )
    cliprange_value: float = field(
        default=0.2,
        metadata={"help": "Clipping range of the value loss: how far a value may move from that of the rollout."},
    )
    missing_eos_penalty: float | None = field(
        default=None,
        metadata={
            "help": "Penalty, 0 or more, subtracted from the score of a completion that reached `max_completion_length` without its "
            "end token."
        },
    )
    reward_adapter: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a reward model: an adapter with a scalar head, trained on the same base (by `trainer: reward` or "
            "TRL's RewardTrainer). It runs on the policy's base, so no second model is loaded."
        },
    )
    beta: float | None = field(default=None, metadata={"help": "Not used. Set `kl_coef` instead."})
    num_generations: int | None = field(
        default=None,
        metadata={
            "help": "Completions per prompt. Default: 8 for an advantage that compares the completions of a prompt, else 1."
        },
    )
    normalize_advantages: bool | None = field(
        default=None,
        metadata={
            "help": "Whiten advantages over the rollout. Default: true for `gae` with the KL in the reward, else false. If set "
            "to true for a KL in the loss, its coefficient is divided by the same standard deviation."
        },
    )
    disable_dropout: bool = field(
        default=True,
        metadata={"help": "Disable dropout, so that rollout and update run the same network."},
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            **switch("logging_nan_inf_filter"),
            "help": "Log the previous average in place of a NaN or infinite loss, as transformers does by default.",
        },
    )

    def __post_init__(self) -> None:
        self._read_switches()
        self._read_row_tokens()
        checks.refuse(self, self._method)
        self._translate()
        self.kl_level = truth_table.check(self.kl_estimator, self.kl_placement, self.kl_level)
        if self.kl_controller == "adaptive" and self.kl_horizon is None:
            self.kl_horizon = 10_000
        for name, value in policy_gradient.settled(vars(self).get).items():
            setattr(self, name, value)
        with self._auto_withheld(), rollout_size.given_once(self):
            try:
                super().__post_init__()
            except ValueError as error:
                if self.num_generations != 1 or not str(error).startswith(RLOO_NEEDS_TWO):
                    raise
        if self.critic_learning_rate is None and advantages.describe(self.advantage).needs_critic:
            self.critic_learning_rate = 10 * self.learning_rate

    def _translate(self) -> None:
        """Turn settings in TRL's spelling into those of this class, before defaults that depend on others are filled in."""
        self.beta = None  # TRL's default is allowed
