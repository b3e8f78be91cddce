"""Settings of online preference training: those of TRL's RLOO trainer, which samples, and a loss on pairs.

Fields are annotated one per line with literal defaults: the recipe validator reads them from this source without
importing it.
"""

from dataclasses import dataclass, field
from typing import Any

from trl import RLOOConfig

from trl_ext.checks import online as rules
from trl_ext.checks.given import Given
from trl_ext.trainers.preference.config import LossOptions


@dataclass
class OnlinePreferenceConfig(LossOptions, RLOOConfig):
    """`trl.RLOOConfig` with `loss` and `loss_kwargs`, `beta` being that of the loss.

    Of TRL's fields, `num_generations` is the number of completions a pair is chosen from, `num_iterations` that of epochs
    over a rollout. `per_device_train_batch_size` counts completions as they are sampled, so a micro-batch trains on
    `per_device_train_batch_size / num_generations` pairs.
    """

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
        self._check_generations("num_generations")
        super().__post_init__()
        self._check_generations("num_generations_eval")
        self._check_groups("train", self.num_generations)
        if self.do_eval and self.eval_strategy != "no":
            self._check_groups("eval", self.num_generations_eval or self.num_generations)
        for problem in rules.problems(Given(self)):
            raise ValueError(problem)
        for name in rules.OF_A_POLICY_GRADIENT:
            if getattr(self, name) != self.__dataclass_fields__[name].default:
                raise ValueError(f"`{name}` is {getattr(self, name)}, and no loss on pairs reads it: remove it.")
        if not (self.missing_eos_penalty or 0) >= 0:
            raise ValueError(f"`missing_eos_penalty` is {self.missing_eos_penalty}: give a number from 0 up.")
        if self.sync_ref_model:
            raise ValueError("`sync_ref_model` is on: the reference of sampled pairs stays what it is. Remove it.")
        self._resolve_loss(default="dpo", trl_spelling=None, fields=("beta",))

    def _check_generations(self, name: str) -> None:
        if getattr(self, name) is not None and getattr(self, name) < 2:
            raise ValueError(f"`{name}` is {getattr(self, name)}: a pair takes at least 2 completions of a prompt.")

    def _check_groups(self, what: str, generations: int) -> None:
        size = getattr(self, f"per_device_{what}_batch_size")
        if size % generations:
            raise ValueError(
                f"`per_device_{what}_batch_size` counts completions and is {size}: give a multiple of {generations}, the "
                "completions of a prompt, so that every pair lies in one batch."
            )

    def _check_loss(self, loss: Any) -> None:
        if not loss.paired:
            raise ValueError(f"The loss {loss.name!r} takes unpaired data, and pairs are sampled: choose another.")
        if loss.coupled:
            raise ValueError(
                f"The loss {loss.name!r} compares sorted values across a whole step, and micro-batches of sampled pairs "
                "are all there is: choose another."
            )
