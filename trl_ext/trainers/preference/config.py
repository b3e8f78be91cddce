"""Trainer configurations: TRL's own, plus the loss by name.

Fields are annotated one per line with literal defaults: the recipe validator reads them from this source without
importing it.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from trl import DPOConfig, KTOConfig

from trl_ext import checks, losses
from trl_ext.checks.loss import mix_from_trl
from trl_ext.trainers.common.checkpoint_options import CheckpointOptions
from trl_ext.trainers.common.nonfinite import FiniteStepOptions


@dataclass
class LossOptions(FiniteStepOptions, CheckpointOptions):
    """Which loss, and its hyperparameters.

    The latter may be given in `loss_kwargs` or, where TRL has a field for them, in that field (`beta`, `label_smoothing`,
    …). A field left at `None` takes the loss's own default, and one that the chosen loss does not read is an error: betas
    of different losses do not mean the same thing.
    """

    _method: ClassVar[str]  # the kind of training that a subclass configures, a key of `trl_ext.methods.METHODS`

    loss: dict | str | None = field(
        default=None,
        metadata={"help": "Loss by name, or a mapping of names to weights. `trl-ext losses` lists them."},
    )
    loss_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Hyperparameters of the loss. In a mix, a mapping under a loss's name is for that loss alone."
        },
    )

    def _resolve_loss(self, default: str, trl_spelling: dict | str | None, fields: tuple[str, ...]) -> None:
        """Settle `loss` and `loss_kwargs`, then mirror the latter into TRL's fields.

        Raises:
            ValueError: Two different losses, an unknown loss, or a hyperparameter the loss does not read.
        """
        ours = losses.canonical(self.loss) if isinstance(self.loss, str) else self.loss
        if ours is not None and trl_spelling is not None and trl_spelling != ours:
            raise ValueError(f"`loss` is {ours!r} and `loss_type` says {trl_spelling!r}: set one of the two.")
        chosen = ours or trl_spelling or default
        given = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        kwargs = dict(self.loss_kwargs or {})
        for name, value in kwargs.items():
            if given.get(name, value) != value:
                raise ValueError(f"`{name}` is {given[name]!r} and {value!r} in `loss_kwargs`: set it in one place.")
        resolved = losses.get(chosen, **{**given, **kwargs})
        checks.refuse(self, self._method, resolved.info)
        self.loss = dict(chosen) if isinstance(chosen, dict) else chosen
        self.loss_kwargs = dict(resolved.hyperparameters)
        for name in fields:
            setattr(self, name, resolved.hyperparameters.get(name))


@dataclass
class PreferenceOptions(LossOptions):
    """What both trainers on given preferences add to TRL's configurations."""

    packing: bool = field(
        default=True,
        metadata={
            "help": "Pack rows: completions share their prompt and no token is padding. Proved against the padded "
            "path on the first step, which is used where the proof fails."
        },
    )
    reference_cache: bool = field(
        default=True,
        metadata={
            "help": "Keep reference log-probabilities on disk, shared by losses, betas, learning rates, seeds and "
            "runs on the same base, and look there before running a reference pass."
        },
    )
    row_tokens: int | str = field(
        default="auto",
        metadata={
            "help": "Most tokens, padding included, of one forward pass. It bounds memory and never changes the "
            "result. `auto`: as many as fit with the fewest layers recomputed, 4096 at most."
        },
    )
    gradient_checkpointing: bool | str = field(
        default="auto",
        metadata={
            "help": "Recompute activations in the backward pass instead of keeping them. `auto`: only in as many layers "
            "as the free memory asks for, measured on this model before the first step.",
            "choices": ["auto"],
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Log a lost (NaN) loss as the previous average, as transformers does by default."},
    )
    lora_dtype: str = field(
        default="float32",
        metadata={
            "help": "Dtype of the trained adapter weights. In bfloat16 most of them cannot move at preference "
            "learning rates.",
            "choices": ["float32", "bfloat16"],
        },
    )

    def __post_init__(self) -> None:
        # The first is the newer name, which transformers has since 5.23.
        names = [name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(self, name)]
        for name in names:
            value = getattr(self, name)
            if isinstance(value, str) and value.lower() in ("true", "false"):
                setattr(self, name, value.lower() == "true")
        if isinstance(self.row_tokens, str) and self.row_tokens.isdigit():
            self.row_tokens = int(self.row_tokens)
        checks.refuse(self, self._method)
        given = next((value for name in names if (value := getattr(self, name)) is not None), None)
        if given == "auto":
            vars(self).update(dict.fromkeys(names, False))  # transformers knows no "auto"
        super().__post_init__()
        if given == "auto":
            vars(self).update(dict.fromkeys(names) | {"gradient_checkpointing": "auto"})


@dataclass
class PairedPreferenceConfig(PreferenceOptions, DPOConfig):
    """`trl.DPOConfig` with `loss`, `loss_kwargs`, `packing`, `reference_cache`, `row_tokens` and `lora_dtype`.

    `loss_type` and `loss_weights` are understood as TRL's spelling of `loss`.

    Raises:
        ValueError: An unknown or unpaired loss, a hyperparameter it does not read, or settings that exclude each other.
    """

    _method = "paired"
    _VALID_DICT_FIELDS = [*DPOConfig._VALID_DICT_FIELDS, "loss", "loss_kwargs"]  # noqa: RUF012

    loss_type: list[str] | None = field(default=None, metadata={"help": "TRL's spelling of `loss`."})
    beta: float | None = field(default=None, metadata={"help": "β of the loss; its own default if not set."})
    label_smoothing: float | None = field(default=None, metadata={"help": "Label noise ε of the loss."})
    discopop_tau: float | None = field(default=None, metadata={"help": "τ of the discopop loss."})
    f_divergence_type: str | None = field(default=None, metadata={"help": "f-divergence of the regulariser."})
    f_alpha_divergence_coef: float | None = field(default=None, metadata={"help": "α of the α-divergence."})

    def __post_init__(self) -> None:
        trl_spelling = _from_trl(self.loss_type, self.loss_weights)
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


@dataclass
class UnpairedPreferenceConfig(PreferenceOptions, KTOConfig):
    """`trl.KTOConfig` with `loss`, `loss_kwargs`, `packing`, `reference_cache`, `row_tokens` and `lora_dtype`.

    `desirable_weight` and `undesirable_weight` take `"auto"`: the rarer class is weighted up until both classes
    weigh the same, λ_D·n_D = λ_U·n_U.

    Raises:
        ValueError: An unknown or paired loss, a hyperparameter it does not read, or settings that exclude each other.
    """

    _method = "unpaired"
    _VALID_DICT_FIELDS = [*KTOConfig._VALID_DICT_FIELDS, "loss", "loss_kwargs"]  # noqa: RUF012

    loss_type: str | None = field(default=None, metadata={"help": "TRL's spelling of `loss`."})
    beta: float | None = field(default=None, metadata={"help": "β of the loss; its own default if not set."})
    desirable_weight: float | str | None = field(default=None, metadata={"help": "λ_D, or 'auto'."})
    undesirable_weight: float | str | None = field(default=None, metadata={"help": "λ_U, or 'auto'."})
    train_sampling_strategy: str = field(
        default="random",
        metadata={
            "help": "`random` mixes both classes evenly into every step; partners for the KTO baseline are drawn "
            "from the step itself, so no order is needed.",
            "choices": ["random", "sequential"],
        },
    )

    def __post_init__(self) -> None:
        trl_spelling = _from_trl(self.loss_type, None)
        self.loss_type = None
        super().__post_init__()
        for name in ("desirable_weight", "undesirable_weight"):
            value = getattr(self, name)
            if isinstance(value, str) and value != "auto":
                setattr(self, name, float(value))
        self._resolve_loss(
            default="kto",
            trl_spelling=trl_spelling,
            fields=("beta", "desirable_weight", "undesirable_weight"),
        )


def _from_trl(loss_type: list[str] | str | None, weights: list[float] | None) -> dict[str, Any] | str | None:
    """TRL's `loss_type` and `loss_weights` as a `loss`."""
    if loss_type is None:
        return None
    mix = {losses.canonical(name): weight for name, weight in mix_from_trl(loss_type, weights).items()}
    return next(iter(mix)) if [*mix.values()] == [1] else mix
