"""Configure the preference trainers: TRL's configurations, with the loss chosen by name.

Fields are annotated one per line with literal defaults, because the recipe validator reads them from this source without
importing it.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trl import DPOConfig, KTOConfig

from trl_ext import checks, losses
from trl_ext.trainers.common.checkpoint_options import CheckpointOptions
from trl_ext.trainers.common.flags import numbered, switch
from trl_ext.trainers.common.kernel_options import KernelOptions
from trl_ext.trainers.common.nonfinite import FiniteStepOptions
from trl_ext.trainers.common.recompute_options import RecomputeOptions
from trl_ext.trainers.common.row_options import RowOptions
from trl_ext.trainers.preference.trl_spelling import from_trl, is_same, to_trl


@dataclass
class LossOptions(FiniteStepOptions, CheckpointOptions, KernelOptions):
    """The loss and its hyperparameters.

    Hyperparameters are given in `loss_kwargs`, or in TRL's field for them (`beta`, `label_smoothing`, …). A field left at
    `None` takes the default of the loss. A hyperparameter that the loss does not read is an error, since β, for example,
    has a different meaning in each loss. At TRL's default it is no error and has no effect.
    """

    _method: ClassVar[str]  # the kind of training that a subclass configures, a key of `trl_ext.methods.METHODS`

    loss: dict | str | None = field(
        default=None,
        metadata={"help": "Loss by name, or a mapping of names to weights. `trl-ext losses` lists them."},
    )
    loss_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Hyperparameters of the loss. In a mix, those in a mapping under the name of a loss apply only to it."
        },
    )

    def _resolve_loss(self, default: str, trl_spelling: dict | str | None, fields: tuple[str, ...]) -> None:
        """Resolve `loss` and `loss_kwargs`, and copy the hyperparameters into TRL's fields.

        Raises:
            ValueError: Two different losses, an unknown loss, or a hyperparameter the loss does not read.
        """
        ours = losses.canonical(self.loss) if isinstance(self.loss, str) else self.loss
        if ours is not None and trl_spelling is not None and not is_same(trl_spelling, ours):
            raise ValueError(f"`loss` is {ours!r} and `loss_type` is {trl_spelling!r}. Set only one of them.")
        chosen = ours or trl_spelling or default
        given = self._given(chosen, fields)
        kwargs = dict(self.loss_kwargs or {})
        for name, value in kwargs.items():
            if given.get(name, value) != value:
                raise ValueError(f"`{name}` is {given[name]!r}, and {value!r} in `loss_kwargs`. Set it in one place.")
        resolved = losses.get(chosen, **{**given, **kwargs})
        checks.refuse(self, self._method, resolved.info)
        self.loss = dict(chosen) if isinstance(chosen, dict) else chosen
        self.loss_kwargs = dict(resolved.hyperparameters)
        for name in fields:
            setattr(self, name, shared_value(resolved, name))

    def _given(self, loss: dict | str, fields: tuple[str, ...]) -> dict[str, Any]:
        """The hyperparameters that were set.

        One that the loss does not read is left out at TRL's default, since a complete list of TRL's settings holds it.
        """
        parts = losses.describe_mix(loss).components if isinstance(loss, dict) else [losses.describe(loss)]
        read = {name for info in parts for name in info.hyperparameters}
        parent = next(cls for cls in type(self).__mro__ if cls.__module__.startswith("trl."))
        of_trl = {field.name: field.default for field in dataclasses.fields(parent)}
        values = {name: getattr(self, name) for name in fields}
        return {
            name: value
            for name, value in values.items()
            if value is not None and (name in read or value != of_trl[name])
        }


@dataclass
class PreferenceOptions(LossOptions, RowOptions, RecomputeOptions):
    """Settings that both preference trainers add to TRL's configurations."""

    reference_cache: bool = field(
        default=True,
        metadata={
            "help": "Keep reference log-probabilities on disk and reuse them, in this run and in all others on the same base, "
            "whatever their loss, learning rate or seed."
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            **switch("logging_nan_inf_filter"),
            "help": "Log the previous average in place of a NaN loss, as transformers does by default.",
        },
    )
    reference: str = field(
        default="start",
        metadata={
            "help": "Reference of a run that continues an adapter. `start`: a frozen copy of that adapter. `base`: the model without "
            "adapter. For other runs both are the model that training starts from.",
            "choices": ["start", "base"],
        },
    )
    humanline: bool = field(
        default=False,
        metadata={
            "help": "Train the humanline variant of `dpo` or `kto` (arXiv:2509.24207): clip the log-ratio of each token, and replace the "
            "reference by the policy before every `ref_model_sync_steps`-th optimizer step. Needs `sync_ref_model: true` and "
            "`ref_model_mixup_alpha: 1.0`.",
        },
    )
    humanline_log_epsilon_p: float = field(
        default=-1.0,
        metadata={"help": "log ε_P of `humanline`: the smallest log-ratio of a token, in nats, below 0."},
    )
    humanline_log_epsilon_r: float = field(
        default=1.5,
        metadata={"help": "log ε_R of `humanline`: the largest log-ratio of a token, in nats, above 0."},
    )
    lora_dtype: str = field(
        default="float32",
        metadata={
            "help": "Dtype of the trained adapter weights. In bfloat16 most weights do not change at the learning rates of "
            "preference training.",
            "choices": ["float32", "bfloat16"],
        },
    )

    def __post_init__(self) -> None:
        self._read_switches()
        self._read_row_tokens()
        checks.refuse(self, self._method)
        with self._auto_withheld():
            super().__post_init__()


@dataclass
class PairedPreferenceConfig(PreferenceOptions, DPOConfig):
    """`trl.DPOConfig` with `loss`, `loss_kwargs`, `packing`, `reference_cache`, `row_tokens` and `lora_dtype`.

    `loss_type` and `loss_weights` are accepted as TRL's spelling of `loss`, and afterwards spell the loss that is trained.

    Raises:
        ValueError: An unknown or unpaired loss, a hyperparameter it does not read, or settings that exclude each other.
    """

    _method = "paired"
    _VALID_DICT_FIELDS = [*DPOConfig._VALID_DICT_FIELDS, "loss", "loss_kwargs"]  # noqa: RUF012

    loss_type: list[str] | None = field(default=None, metadata={"help": "TRL's spelling of `loss`."})
    beta: float | None = field(default=None, metadata={"help": "β of the loss (default: that of the loss)."})
    label_smoothing: float | None = field(default=None, metadata={"help": "Label noise ε of the loss."})
    discopop_tau: float | None = field(default=None, metadata={"help": "τ of the discopop loss."})
    f_divergence_type: str | None = field(default=None, metadata={"help": "f-divergence of the regulariser."})
    f_alpha_divergence_coef: float | None = field(default=None, metadata={"help": "α of the α-divergence."})

    def __post_init__(self) -> None:
        trl_spelling = from_trl(self.loss_type, self.loss_weights)
        self.loss_type = self.loss_weights = None
        super().__post_init__()
        self._resolve_loss(
            default="dpo",
            trl_spelling=trl_spelling,
            fields=(
                "beta",
                "label_smoothing",
                "discopop_tau",
                "f_divergence_type",
                "f_alpha_divergence_coef",
            ),
        )
        self.loss_type, self.loss_weights = to_trl(self.loss)


@dataclass
class UnpairedPreferenceConfig(PreferenceOptions, KTOConfig):
    """`trl.KTOConfig` with `loss`, `loss_kwargs`, `packing`, `reference_cache`, `row_tokens` and `lora_dtype`.

    `desirable_weight` and `undesirable_weight` may be `"auto"`: the smaller class gets a larger weight, so that
    λ_D·n_D = λ_U·n_U.

    Raises:
        ValueError: An unknown or paired loss, a hyperparameter it does not read, or settings that exclude each other.
    """

    _method = "unpaired"
    _VALID_DICT_FIELDS = [*KTOConfig._VALID_DICT_FIELDS, "loss", "loss_kwargs"]  # noqa: RUF012

    loss_type: str | None = field(default=None, metadata={"help": "TRL's spelling of `loss`."})
    beta: float | None = field(default=None, metadata={"help": "β of the loss (default: that of the loss)."})
    desirable_weight: float | str | None = field(default=None, metadata={"help": "λ_D, a number or 'auto'."})
    undesirable_weight: float | str | None = field(default=None, metadata={"help": "λ_U, a number or 'auto'."})
    train_sampling_strategy: str = field(
        default="random",
        metadata={
            "help": "`random` mixes both classes evenly into every step. `sequential` keeps the order of the data. The KTO "
            "baseline does not depend on the order of the examples in a step.",
            "choices": ["random", "sequential"],
        },
    )

    def __post_init__(self) -> None:
        trl_spelling = from_trl(self.loss_type, None)
        self.loss_type = None
        super().__post_init__()
        for name in ("desirable_weight", "undesirable_weight"):
            setattr(self, name, numbered(getattr(self, name)))
        self._resolve_loss(
            default="kto",
            trl_spelling=trl_spelling,
            fields=("beta", "desirable_weight", "undesirable_weight"),
        )
        # TRL's KTO has no mix, and no field for its weights.
        self.loss_type = to_trl(self.loss)[0][0] if isinstance(self.loss, str) else None


def shared_value(loss: losses.Loss | losses.Mix, name: str) -> Any:
    """The value of a hyperparameter; `None` if the loss does not read it or the parts of a mix differ in it."""
    of_parts = loss.hyperparameters.values() if isinstance(loss, losses.Mix) else [loss.hyperparameters]
    values = [part[name] for part in of_parts if name in part]
    return values[0] if values and all(value == values[0] for value in values) else None
