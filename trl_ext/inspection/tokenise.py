"""Tokenise examples as TRL's trainers do, without a model.

`_prepare_dataset` of TRL's trainers (1.16) applies the chat template, adds end-of-sequence tokens and separates prompts from
completions. It reads only the tokenizer and the configuration, so it runs here unchanged, on a stand-in for the trainer. It is
given no `max_length`: `truncation` and `facts` cut and drop afterwards, to count first what the trainer will do.
"""

from __future__ import annotations

import copy
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoTokenizer
from trl import RLOOTrainer
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from trl_ext.data import gold_tokens
from trl_ext.data.golds import GOLD
from trl_ext.inspection.special_tokens import text_tokenizer
from trl_ext.methods import Method, imported
from trl_ext.model_files.template_defaults import get_line, put_line
from trl_ext.support.errors import UserError

CHUNK = 1000
"""Rows that are tried at once in the search for one that cannot be tokenised."""


def has_images(dataset: Any) -> bool:
    return bool({"image", "images"} & set(dataset.column_names or ()))


def tokenise(
    method: Method, dataset: Dataset, processing_class: Any, args: Any, numbers: np.ndarray | None = None
) -> Dataset:
    """The dataset with the `token_columns` of its method: token ids as the trainer makes them, nothing dropped or cut yet.

    Args:
        method: The kind of training.
        dataset: Examples as the trainer takes them, without images.
        processing_class: Tokenizer or processor.
        args: The trainer's configuration.
        numbers: The number of each row for error messages (default: its position).

    Raises:
        UserError: The tokenizer or its chat template refuses a row.
    """
    tokens = _prompts if method.tokenised_by is None else _by_trl
    try:
        return tokens(method, dataset, processing_class, args)
    except Exception as error:  # templates and tokenizers may raise anything
        refused = _first_refused(lambda rows: tokens(method, rows, processing_class, args), dataset)
        if refused is None:
            raise
        row, cause = refused
        raise refusal(row if numbers is None else int(numbers[row]), cause) from error


def refusal(number: int, cause: Exception) -> UserError:
    """The error for a row that cannot be tokenised."""
    message = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
    return UserError(
        f"Row {number:,} of the training data cannot be tokenised ({message}). Correct or remove it. If the chat template "
        "refuses it, use a tokenizer whose template accepts such conversations."
    )


def _by_trl(method: Method, dataset: Dataset, processing_class: Any, args: Any) -> Dataset:
    whole = copy.copy(args)
    whole.max_length = None
    return TOKENISERS[method.tokenised_by](imported(method.tokenised_by), dataset, processing_class, whole)


def _preferences(trainer: type, dataset: Dataset, processing_class: Any, args: Any) -> Dataset:
    stand_in = SimpleNamespace(_tokenizer=text_tokenizer(processing_class), calculate_KL=False)

    def tokenised(rows: Dataset) -> Dataset:
        return trainer._prepare_dataset(stand_in, rows, processing_class, args, "training")

    return gold_tokens.tokenise(dataset, tokenised) if GOLD in dataset.column_names else tokenised(dataset)


def _scored_pairs(trainer: type, dataset: Dataset, processing_class: Any, args: Any) -> Dataset:
    processing_class = with_template(processing_class, args)
    return trainer._prepare_dataset(SimpleNamespace(), dataset, processing_class, args, "training")


def _demonstrations(trainer: type, dataset: Dataset, processing_class: Any, args: Any) -> Dataset:
    processing_class = with_template(processing_class, args)
    args.packing = args.shuffle_dataset = False
    stand_in = SimpleNamespace(
        _tokenizer=text_tokenizer(processing_class),
        chat_template=_training_template(processing_class, args),
        completion_only_loss=_completion_only(dataset, args),
    )
    return trainer._prepare_dataset(stand_in, dataset, processing_class, args, False, None, "training")


TOKENISERS = {
    "trl:DPOTrainer": _preferences,
    "trl:KTOTrainer": _preferences,
    "trl:RewardTrainer": _scored_pairs,
    "trl:SFTTrainer": _demonstrations,
}
"""How to call `_prepare_dataset` of each TRL trainer that a method may name in `tokenised_by`."""


def of_trainer(method: Method, processing_class: Any, args: Any) -> Any:
    """The tokenizer or processor with the settings that the trainer of a method applies to it."""
    changes = method.tokenised_by in ("trl:RewardTrainer", "trl:SFTTrainer")
    return with_template(processing_class, args) if changes else processing_class


def with_template(processing_class: Any, args: Any) -> Any:
    """A copy of the tokenizer with the settings that TRL's reward and SFT trainers apply to it."""
    if args.eos_token is None and args.chat_template_path is None:
        return processing_class
    line, processing_class = get_line(processing_class), copy.deepcopy(processing_class)
    tokenizer = text_tokenizer(processing_class)
    if args.eos_token is not None:
        tokenizer.eos_token = args.eos_token
    path = args.chat_template_path
    if path is not None and os.path.isfile(path) and path.endswith((".jinja", ".j2")):
        with open(path, encoding="utf-8") as file:
            processing_class.chat_template = file.read()
    elif path is not None:  # as `trl.clone_chat_template` does
        other = AutoTokenizer.from_pretrained(path)
        processing_class.chat_template = other.get_chat_template()
        added = other.added_tokens_decoder.values()
        tokenizer.add_tokens([token for token in added if token.content not in tokenizer.vocab])
        tokenizer.eos_token = other.eos_token
    put_line(processing_class, line)
    return processing_class


def _training_template(processing_class: Any, args: Any) -> str | None:
    if not args.assistant_only_loss or has_generation_markers(processing_class.chat_template):
        return None
    line, plain = get_line(processing_class), copy.copy(processing_class)
    put_line(plain, "")  # TRL recognises the text of the whole template
    return line + get_training_chat_template(plain)


def _completion_only(dataset: Dataset, args: Any) -> bool:
    if args.completion_only_loss is not None:
        return args.completion_only_loss
    return {"prompt", "completion"} <= set(dataset.column_names)


def _prompts(method: Method, dataset: Dataset, processing_class: Any, args: Any) -> Dataset:
    return dataset.select_columns(["prompt"]).map(
        _prompt_ids,
        batched=True,
        fn_kwargs={"processing_class": processing_class, "template": args.chat_template_kwargs or {}},
        desc="Tokenizing prompts",
    )


def _prompt_ids(batch: dict[str, list], processing_class: Any, template: dict[str, Any]) -> dict[str, list]:
    stand_in = SimpleNamespace(processing_class=processing_class, chat_template_kwargs=template)
    return {"prompt_ids": RLOOTrainer._tokenize_prompts(stand_in, batch["prompt"])[0]}


def _first_refused(tokens: Any, dataset: Dataset) -> tuple[int, Exception] | None:
    """The first row that cannot be tokenised on its own, and its error."""
    for start in range(0, len(dataset), CHUNK):
        rows = range(start, min(start + CHUNK, len(dataset)))
        if _attempt(tokens, dataset.select(rows)) is None:
            continue
        for row in rows:
            if (error := _attempt(tokens, dataset.select([row]))) is not None:
                return row, error
    return None


def _attempt(tokens: Any, dataset: Dataset) -> Exception | None:
    try:
        tokens(Dataset.from_list(dataset.to_list(), features=dataset.features))  # in memory: leaves no cache files
    except Exception as error:
        return error
    return None
