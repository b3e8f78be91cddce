"""Settings of online preference training: those of TRL's RLOO trainer, which samples, and a loss on pairs.

Fields are annotated one per line with literal defaults: the recipe validator reads them from this source without
importing it.
"""

from dataclasses import dataclass, field

from trl import RLOOConfig

from trl_ext import checks
from trl_ext.trainers.preference.config import LossOptions


@dataclass
class OnlinePreferenceConfig(LossOptions, RLOOConfig):
    """`trl.RLOOConfig` with `loss` and `loss_kwargs`, `beta` being that of the loss.

    Of TRL's fields, `num_generations` is the number of completions a pair is chosen from, `num_iterations` that of epochs
    over a rollout. `per_device_train_batch_size` counts completions as they are sampled, so a micro-batch trains on
    `per_device_train_batch_size / num_generations` pairs.
    """

    _method = "online"
    _VALID_DICT_FIELDS = [*RLOOConfig._VALID_DICT_FIELDS, "loss", "loss_kwargs"]  # noqa: RUF012

    beta: float | None = field(default=None, metadata={"help": "β of the loss; its own default if not set."})
    missing_eos_penalty: float | None = field(
        default=None,
        metadata={"help": "Subtracted from the score of a completion that ran out of tokens; a positive number."},
    )
    reward_adapter: str | None = field(
        default=None,
        metadata={"help": "Folder of a reward model trained as an adapter on the same base, as of PPO."},
    )
    disable_dropout: bool = field(
        default=True,
        metadata={"help": "Switch dropout off, so that policy and reference see the same network."},
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Log a lost (NaN) loss as the previous average, as transformers does by default."},
    )

    def __post_init__(self) -> None:
        checks.refuse(self, self._method)
        super().__post_init__()
        self._resolve_loss(default="dpo", trl_spelling=None, fields=("beta",))
