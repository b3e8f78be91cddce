"""Settings of PPO: those of TRL's RLOO trainer, the critic's, and where which KL estimator goes.

Fields are annotated one per line with literal defaults: the recipe validator reads them from this source without
importing it.
"""

from dataclasses import dataclass, field

from trl import RLOOConfig

from trl_ext import checks
from trl_ext.rl import truth_table
from trl_ext.trainers.common.checkpoint_options import CheckpointOptions
from trl_ext.trainers.common.nonfinite import FiniteStepOptions

RLOO_NEEDS_TWO = "RLOO requires at least 2 generations"
"""How the last check of `trl.RLOOConfig` begins. Its baseline is the other completions of a prompt; PPO's is the critic."""


@dataclass
class PPOConfig(FiniteStepOptions, CheckpointOptions, RLOOConfig):
    """`trl.RLOOConfig` with a critic, per-token rewards and a choice of KL estimator.

    Of TRL's fields, `num_iterations` is the number of epochs over a rollout, `epsilon` and `epsilon_high` clip the
    policy's ratio, `normalize_advantages` whitens per-token advantages over the rollout. `kl_coef` replaces `beta`.
    """

    kl_coef: float = field(
        default=0.05,
        metadata={"help": "Price of one nat of KL(policy ‖ reference), in units of reward."},
    )
    kl_estimator: str = field(
        default="k1",
        metadata={"help": "Estimator of the KL: k1 = d, k2 = d²/2, k3 = exp(−d) − 1 + d, with d = log π/π_ref."},
    )
    kl_placement: str = field(
        default="reward",
        metadata={
            "help": "Where the KL goes: `reward` (subtracted from it) or `loss` (differentiated). k1 in the reward and "
            "k2 of the summed log-ratio in the loss give the gradient of the reverse KL; other choices do not, and "
            "the run says so."
        },
    )
    kl_level: str | None = field(
        default=None,
        metadata={
            "help": "Estimate per `token` or of the summed `sequence`; if not set, token in the reward and sequence in "
            "the loss."
        },
    )
    kl_controller: str = field(
        default="fixed",
        metadata={
            "help": "`fixed` keeps `kl_coef`; `adaptive` steers it towards `kl_target`.",
            "choices": ["fixed", "adaptive"],
        },
    )
    kl_target: float | None = field(
        default=None,
        metadata={"help": "Wanted KL of the adaptive controller, in nats per completion."},
    )
    kl_horizon: int | None = field(
        default=None,
        metadata={"help": "Completions over which the adaptive controller acts; 10000 if not set."},
    )
    gamma: float = field(
        default=1.0,
        metadata={"help": "Discount per token; 1 for the KL in the reward to be that of whole completions."},
    )
    lam: float = field(
        default=0.95,
        metadata={"help": "λ of generalised advantage estimation; 1 for no bias from the critic."},
    )
    critic_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the critic's adapter and head; ten times `learning_rate` if not set."},
    )
    vf_coef: float = field(
        default=0.1,
        metadata={"help": "Weight of the value loss; critic and policy share no weight, so Adam hides it."},
    )
    cliprange_value: float = field(
        default=0.2,
        metadata={"help": "How far a value may move from that of the rollout before its loss is clipped."},
    )
    missing_eos_penalty: float | None = field(
        default=None,
        metadata={"help": "Subtracted from the score of a completion that ran out of tokens; a positive number."},
    )
    reward_adapter: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a reward model trained as an adapter with a scalar head on the same base (TRL's "
            "RewardTrainer). It scores completions on the base that is loaded anyway."
        },
    )
    beta: float | None = field(default=None, metadata={"help": "Not used: set `kl_coef`."})
    num_generations: int | None = field(
        default=1,
        metadata={"help": "Completions per prompt. The critic is the baseline, so one is enough."},
    )
    normalize_advantages: bool | None = field(
        default=None,
        metadata={
            "help": "Whiten advantages over the rollout. If not set: with the KL in the reward, not with the KL in the "
            "loss, whose coefficient would have to be divided by the same number (and is, when this is set)."
        },
    )
    disable_dropout: bool = field(
        default=True,
        metadata={"help": "Switch dropout off, so that rollout and update see the same network."},
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Log a lost (NaN) loss as the previous average, as transformers does by default."},
    )

    def __post_init__(self) -> None:
        checks.refuse(self, "ppo")
        self.kl_level = truth_table.check(self.kl_estimator, self.kl_placement, self.kl_level)
        if self.kl_controller == "adaptive" and self.kl_horizon is None:
            self.kl_horizon = 10_000
        try:
            super().__post_init__()
        except ValueError as error:
            if self.num_generations != 1 or not str(error).startswith(RLOO_NEEDS_TWO):
                raise
        if self.normalize_advantages is None:
            self.normalize_advantages = self.kl_placement == "reward"
        if self.critic_learning_rate is None:
            self.critic_learning_rate = 10 * self.learning_rate
