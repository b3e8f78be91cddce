"""Define the settings of RLOO: those of TRL's RLOO trainer, as settings of the general trainer.

Fields are annotated one per line with literal defaults: the recipe validator reads them from this source without
importing it.
"""

from dataclasses import dataclass, field

from trl_ext.checks import kl
from trl_ext.trainers.ppo.config import PPOConfig


@dataclass
class RLOOConfig(PPOConfig):
    """`trl.RLOOConfig`: its settings mean what they mean there, and `kl_coef` is another name of `beta`.

    The KL is k1 in the reward, the ratio is that of whole completions, and the loss is a mean over completions.
    """

    _method = "rloo"

    advantage: str = field(
        default="rloo",
        metadata={
            "help": "How rewards become advantages; `rloo` subtracts the mean reward of the prompt's other completions. `trl-ext "
            "advantages` lists them."
        },
    )
    beta: float = field(
        default=0.05,
        metadata={"help": "KL coefficient, as TRL names it: reward subtracted per nat of KL(policy ‖ reference)."},
    )
    kl_coef: float | None = field(
        default=None,
        metadata={"help": "KL coefficient, in place of `beta` (default: `beta`)."},
    )
    num_generations: int | None = field(
        default=2,
        metadata={"help": "Completions per prompt. Each is compared with the others."},
    )
    loss_aggregation: str | None = field(
        default="sum",
        metadata={
            "help": "How the losses of tokens become one number: `token`, `sequence`, `constant` or `sum`. A ratio of whole "
            "completions is divided among their tokens, so `sum` is the mean over completions."
        },
    )
    importance_sampling_level: str | None = field(
        default="sequence_sum",
        metadata={
            "help": "The ratio π/π_old that is clipped: of each `token`, of a `sequence` as the mean of its log-ratios, or of a "
            "sequence as their sum (`sequence_sum`)."
        },
    )
    normalize_advantages: bool | None = field(
        default=False,
        metadata={
            "help": "Whiten the advantages of the completions of a rollout, to mean 0 and standard deviation 1."
        },
    )

    def _translate(self) -> None:
        self.kl_coef = kl.coefficient(self.__dict__.get)
        self.beta = self.kl_coef
