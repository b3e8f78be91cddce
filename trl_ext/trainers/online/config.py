"""Define the settings of online preference training: those of TRL's RLOO trainer, which samples, and a loss on pairs.

Fields are annotated one per line with literal defaults: the recipe validator reads them from this source without
importing it.
"""

from dataclasses import dataclass, field

import trl

from trl_ext import checks
from trl_ext.trainers.common.flags import switch
from trl_ext.trainers.common.recompute_options import RecomputeOptions
from trl_ext.trainers.common.row_options import RowOptions
from trl_ext.trainers.preference.config import LossOptions
from trl_ext.trainers.rollout import rollout_size
from trl_ext.trainers.rollout.sampling_options import SamplingOptions


@dataclass
class OnlinePreferenceConfig(LossOptions, RowOptions, RecomputeOptions, SamplingOptions, trl.RLOOConfig):
    """`trl.RLOOConfig` with `loss` and `loss_kwargs`; `beta` is that of the loss.

    In TRL's fields, `num_generations` is the number of completions that a pair is chosen from, and `num_iterations` the
    number of epochs over a rollout. `per_device_train_batch_size` counts sampled completions, so a micro-batch has
    `per_device_train_batch_size / num_generations` pairs.
    """

    _method = "online"
    _VALID_DICT_FIELDS = [*trl.RLOOConfig._VALID_DICT_FIELDS, "loss", "loss_kwargs"]  # noqa: RUF012

    beta: float | None = field(default=None, metadata={"help": "β of the loss (default: that of the loss)."})
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
            "help": "Folder of a reward model: an adapter with a scalar head, trained on the same base. As for PPO."
        },
    )
    disable_dropout: bool = field(
        default=True,
        metadata={"help": "Disable dropout, so that policy and reference run the same network."},
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
        with self._auto_withheld(), rollout_size.given_once(self):
            super().__post_init__()
        self._resolve_loss(default="dpo", trl_spelling=None, fields=("beta",))
