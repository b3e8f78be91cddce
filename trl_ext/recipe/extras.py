"""Declare the keys of a recipe that trl-ext adds to TRL's `ModelConfig` and `ScriptArguments`, and the sources of reward."""

from dataclasses import dataclass, field
from typing import Any


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
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Variables of the chat template, for instance `{enable_thinking: false}`. They become its defaults, also in the "
            "saved tokenizer. A column `chat_template_kwargs` of the data replaces them row by row."
        },
    )
    thoughts: str = field(
        default="all",
        metadata={
            "help": "Parts to train on in completions that think before they answer (`<think>…</think>`). `all`: thoughts and "
            "answers. `no_empty`: the same without empty thoughts. `answer`: answers alone; thoughts are removed from the "
            "completions. `masked`: answers alone, each after its thought, which the model reads and does not learn. With all but `all`, "
            "empty thoughts that the chat template writes become part of the prompt.",
            "choices": ["all", "no_empty", "answer", "masked"],
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
class RunExtras:
    """Settings of a run besides those of its trainer."""

    evaluation: bool | dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Evaluation at the end of the run, for instance `{judge: sentiment, samples: 100}`. `true` measures held-out "
            "preferences. Default: none."
        },
    )

    search: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "What `trl-ext search` varies, and how, for instance `{space: {learning_rate: {low: 1e-6, high: 1e-4}}, max_kl: 3}`. "
            "No other verb reads it. Default: none."
        },
    )


@dataclass
class SearchKeys:
    """Entries of `search`. Those that `trl-ext search` has a flag for are overridden by it."""

    space: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Settings and their ranges: `[8, 16]` for values, `{low: 1e-6, high: 1e-4}` for an interval (`log: true` or `false`; "
            "default: true if `high` is at least ten times `low`), `auto` for the default range, or a mapping from losses to ranges. "
            "Default: the loss, beta, learning rate, rank and length of the training."
        },
    )
    measure: str | None = field(
        default=None,
        metadata={
            "help": "What is maximised: `accuracy` on held-out preferences, a reward function, the folder or Hub name of a reward model or "
            "chat model, `api`, or an address (default: the true reward of the embedded data, else `accuracy`)."
        },
    )
    max_kl: float | None = field(
        default=None,
        metadata={"help": "Largest KL to the base of a result, in nats per completion (default: 5)."},
    )
    hours: float | None = field(
        default=None, metadata={"help": "Length of the search in hours, over all commands that continue it."}
    )
    trials: int | None = field(
        default=None, metadata={"help": "Number of trials after which the search ends (default: no limit)."}
    )
    samples: int | None = field(
        default=None,
        metadata={"help": "Held-out prompts that a trial is measured on, one completion each (default: 256)."},
    )
    limit: int | None = field(
        default=None, metadata={"help": "Held-out rows that `accuracy` is measured on (default: 500)."}
    )
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Largest number of tokens of a completion (default: 128, with a judge 512)."}
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Held-out data to measure on (default: that of the recipe)."}
    )
    split: str | None = field(default=None, metadata={"help": "Split of the held-out data."})
    pruner: str = field(
        default="successive_halving",
        metadata={
            "help": "What stops trials early: `successive_halving`, `hyperband` or `none`.",
            "choices": ["successive_halving", "hyperband", "none"],
        },
    )
    reduction_factor: int | None = field(
        default=None, metadata={"help": "One in so many trials is trained on at each rung (default: 2)."}
    )
    rungs: int | None = field(
        default=None,
        metadata={
            "help": "Measurements before the end of a trial (default: 2). With a reduction factor of 2 they are at 1/4 and 1/2 of its steps."
        },
    )
    seed: int | None = field(default=None, metadata={"help": "Seed of the choice of settings (default: 0)."})
    judge_model: str | None = field(default=None, metadata={"help": "Model behind an API that `measure` names."})
    judge_base_url: str | None = field(
        default=None, metadata={"help": "Address of the API (default: https://api.openai.com/v1)."}
    )
    judge_template: str | None = field(
        default=None,
        metadata={"help": "File with the text that an API or a chat model reads, in place of the shipped one."},
    )


@dataclass
class EvaluationKeys:
    """Entries of `evaluation`. Each is a flag of `trl-ext eval`, too."""

    judge: str | list[str] | None = field(
        default=None,
        metadata={
            "help": "Judge of the win rate of the trained model against its base, or a list of two, whose agreement is measured: a "
            "reward function, the folder or Hub name of a reward model or chat model, `api`, or an address."
        },
    )
    judge_model: str | None = field(default=None, metadata={"help": "Model behind the API."})
    judge_base_url: str | None = field(
        default=None, metadata={"help": "Address of the API (default: https://api.openai.com/v1)."}
    )
    judge_template: str | None = field(
        default=None,
        metadata={"help": "File with the text that an API or a chat model reads, in place of the shipped one."},
    )
    judge_concurrency: int | None = field(
        default=None, metadata={"help": "Largest number of requests to the API at a time (default: 8)."}
    )
    judge_timeout: float | None = field(
        default=None, metadata={"help": "Seconds without an answer after which a request is repeated (default: 120)."}
    )
    judge_retries: int | None = field(
        default=None, metadata={"help": "Repetitions of a request that failed (default: 5)."}
    )
    judge_max_tokens: int | None = field(
        default=None, metadata={"help": "Largest number of tokens in a reply of the API (default: 1024)."}
    )
    judge_temperature: float | None = field(
        default=None, metadata={"help": "Temperature of the replies of the API (default: 0)."}
    )
    judge_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a judge on the Hub."})
    judge_load_in_4bit: bool = field(
        default=False, metadata={"help": "Quantise a judge that is loaded on this computer."}
    )
    temperature: float | None = field(
        default=None, metadata={"help": "Temperature of the answers that are judged (default: 1)."}
    )
    prompts: str | None = field(
        default=None,
        metadata={
            "help": "File with the prompts that are answered and judged (default: those that the run held out)."
        },
    )
    dataset: str | None = field(default=None, metadata={"help": "Held-out data (default: that of the run)."})
    split: str | None = field(default=None, metadata={"help": "Split of the data."})
    dataset_columns: dict[str, str] | None = field(default=None, metadata={"help": "Columns of `dataset`."})
    tasks: str | list[str] | None = field(
        default=None,
        metadata={"help": "Tasks of lm-evaluation-harness by their names, or a folder of task files."},
    )
    num_fewshot: int | None = field(
        default=None, metadata={"help": "Solved examples before each question of a task (default: as the task says)."}
    )
    apply_chat_template: bool = field(
        default=False, metadata={"help": "Ask the questions of tasks in the chat template (default: as plain text)."}
    )
    batch_size: int | None = field(
        default=None, metadata={"help": "Requests of tasks in one forward pass (default: 16)."}
    )
    limit: int | None = field(
        default=None,
        metadata={
            "help": "Rows of preferences, or documents per task, from the first (default: 2000 rows, all documents)."
        },
    )
    samples: int | None = field(
        default=None,
        metadata={"help": "Completions that are sampled per model, each for another prompt (default: 256)."},
    )
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Largest number of tokens of a sample (default: 128, with a judge 512)."}
    )
    seed: int | None = field(default=None, metadata={"help": "Seed of the sampling (default: 0)."})
    reward_funcs: list[str] | None = field(
        default=None,
        metadata={"help": "Reward functions that score the samples (default: those of the embedded data)."},
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
