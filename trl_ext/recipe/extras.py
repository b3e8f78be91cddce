"""Declare the keys of a recipe that trl-ext adds to TRL's `ModelConfig` and `ScriptArguments`, and the sources of reward."""

from dataclasses import dataclass, field


@dataclass
class ModelExtras:
    """Model settings that TRL's `ModelConfig` lacks."""

    bnb_4bit_compute_dtype: str = field(
        default="auto",
        metadata={
            "help": "Dtype of matrix products with 4-bit weights. `auto`: bfloat16 where the GPU computes it fast, else float32.",
            "choices": ["auto", "float32", "bfloat16", "float16"],
        },
    )


@dataclass
class RewardExtras:
    """Sources of reward for methods that sample completions; their configurations have no such setting."""

    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Sources of reward: a built-in function (`sentiment`), `module:function`, a Python file (`rewards.py` or "
            "`rewards.py:function`), or a sequence classifier (a folder or org/name). The reward is their sum weighted by "
            "`reward_weights`, whose last weight is that of the reward adapter."
        },
    )


@dataclass
class DataExtras:
    """Data settings that TRL's `ScriptArguments` lacks."""

    dataset_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of the dataset on the Hub."}
    )
    dataset_columns: dict[str, str] | None = field(
        default=None,
        metadata={
            "help": "Columns of the dataset to use, for instance `{prompt: question, chosen: good, rejected: bad}`. A path names a "
            "value inside a column: `{chosen: 'completions[0].text'}`."
        },
    )
    dataset_format: str = field(default="auto", metadata={"help": "Format of the dataset; `auto` detects it."})
    dataset_pairs: str = field(
        default="best_worst",
        metadata={
            "help": "Pairs made of a row with several completions and their scores or ranks: `best_worst`: one pair; `all`: every "
            "two completions. Equal scores make no pair.",
            "choices": ["best_worst", "all"],
        },
    )
    dataset_pair_margin: float = field(
        default=0.0,
        metadata={"help": "The scores of a pair differ by more than this (default: 0)."},
    )
    apply_chat_template: bool | str = field(
        default="auto",
        metadata={
            "help": "Write plain text prompts and completions as user and assistant turns of the chat template. `auto`: if the "
            "tokenizer has a chat template, and the text does not contain its turns already. Messages always use it.",
            "choices": ["auto"],
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Number of examples to train on, counted from the first (default: all)."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Number of examples to evaluate on, counted from the first (default: all)."}
    )
    eval_size: float | None = field(
        default=None,
        metadata={
            "help": "Number of examples (1 or more) or share (below 1) of the training split to hold out for evaluation, if the "
            "dataset has no test split. All examples of a prompt are on the same side."
        },
    )


@dataclass
class EntryExtras:
    """Settings of an entry of `datasets` that TRL's `DatasetConfig` lacks."""

    share: float | None = field(
        default=None,
        metadata={
            "help": "Share of the dataset's rows that are used, from the first. TRL's `fraction` is the share of the mixture that "
            "the dataset makes up."
        },
    )
