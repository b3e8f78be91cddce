"""Keys of a recipe that belong to no trainer: what we add to TRL's `ModelConfig` and `ScriptArguments`."""

from dataclasses import dataclass, field


@dataclass
class ModelExtras:
    """Model settings that TRL's `ModelConfig` lacks."""

    bnb_4bit_compute_dtype: str = field(
        default="auto",
        metadata={
            "help": "Dtype of the matrix products with 4-bit weights. `auto`: bfloat16 where it is fast, "
            "else float32.",
            "choices": ["auto", "float32", "bfloat16", "float16"],
        },
    )


@dataclass
class RewardExtras:
    """Where `trainer: ppo` and `trainer: online` have their rewards from, which their configurations do not say."""

    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Where scores come from: a known function (`sentiment`), `module:function`, a Python file "
            "(`rewards.py`, or `rewards.py:function`), or a sequence classifier (a folder or org/name). Several are added "
            "up, weighted by `reward_weights`, in which the reward adapter comes last."
        },
    )


@dataclass
class DataExtras:
    """Data settings that TRL's `ScriptArguments` lacks."""

    dataset_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of a dataset on the Hub."}
    )
    dataset_columns: dict[str, str] | None = field(
        default=None,
        metadata={
            "help": "Which columns of the dataset to use, for instance "
            "`{prompt: question, chosen: good, rejected: bad}`."
        },
    )
    dataset_format: str = field(
        default="auto", metadata={"help": "Name of the dataset's format; `auto` recognises it."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on the first so many examples only; all if not set."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on the first so many examples only; all if not set."}
    )
    eval_size: float | None = field(
        default=None,
        metadata={
            "help": "Examples (from 1) or share (below 1) of the training split to hold out for evaluation, "
            "where the dataset has no test split: whole prompts, so that none is trained on and evaluated on."
        },
    )
