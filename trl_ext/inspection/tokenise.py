"""Token ids as TRL's trainers make them, without a model.

End-of-sequence tokens, the chat template and where a prompt ends are decided in `_prepare_dataset` of TRL's trainers
(1.16). It reads the tokenizer and the configuration alone, so it runs here as it is, on a stand-in for the trainer. It is
told of no `max_length`: what is dropped and cut is counted first, and done by `facts` the way the trainers do it.
"""

from __future__ import annotations

import copy
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoTokenizer, ProcessorMixin
from trl import RLOOTrainer
from trl.chat_template_utils import get_training_chat_template, has_generation_markers
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference
from trl.trainer.kto_trainer import DataCollatorForVisionUnpairedPreference

from trl_ext.methods import METHODS, Method, imported
from trl_ext.support.errors import UserError

CHUNK = 1000
"""Rows to try at once when looking for one that cannot be tokenised."""


def text_tokenizer(processing_class: Any) -> Any:
    """The tokenizer, given it or a processor that has one."""
    return processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class


def has_images(dataset: Any) -> bool:
    return bool({"image", "images"} & set(dataset.column_names or ()))


def tokenise(
    kind: str, dataset: Dataset, processing_class: Any, args: Any, numbers: np.ndarray | None = None
) -> Dataset:
    """The dataset with the `token_columns` of its method: token ids as the trainer makes them, nothing dropped or cut yet.

    Args:
        kind: A key of `METHODS`.
        dataset: Examples as the trainer takes them, without images.
        processing_class: Tokenizer or processor.
        args: The trainer's configuration.
        numbers: What to call each row in an error; its place if not given.

    Raises:
        UserError: A row that the tokenizer or its chat template refuses.
    """
    method = METHODS[kind]
    tokens = _prompts if method.tokenised_by is None else _by_trl
    try:
        return tokens(method, dataset, processing_class, args)
    except Exception as error:  # whatever a template, a tokenizer or a value they do not expect may raise
        refused = _first_refused(lambda rows: tokens(method, rows, processing_class, args), dataset)
        if refused is None:
            raise
        row, cause = refused
        raise _refusal(row if numbers is None else int(numbers[row]), cause) from error


def _refusal(number: int, cause: Exception) -> UserError:
    said = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
    return UserError(
        f"Row {number:,} of the training data cannot be turned into tokens ({said}): correct or remove it or, if it is "
        "the chat template that objects, use a tokenizer whose template takes such conversations."
    )


def _by_trl(method: Method, dataset: Dataset, processing_class: Any, args: Any) -> Dataset:
    trainer = imported(method.tokenised_by)
    whole = copy.copy(args)
    whole.max_length = None
    if method.has_loss:
        stand_in = SimpleNamespace(_tokenizer=text_tokenizer(processing_class), calculate_KL=False)
        return trainer._prepare_dataset(stand_in, dataset, processing_class, whole, "training")
    processing_class = _with_template(processing_class, args)
    if method.trains_scores:
        return trainer._prepare_dataset(SimpleNamespace(), dataset, processing_class, whole, "training")
    whole.packing = whole.shuffle_dataset = False
    stand_in = SimpleNamespace(
        _tokenizer=text_tokenizer(processing_class),
        chat_template=_training_template(processing_class, args),
        completion_only_loss=_completion_only(dataset, args),
    )
    return trainer._prepare_dataset(stand_in, dataset, processing_class, whole, False, None, "training")


def _with_template(processing_class: Any, args: Any) -> Any:
    """A tokenizer with the settings of TRL's reward and SFT trainers, which set them on their own."""
    if args.eos_token is None and args.chat_template_path is None:
        return processing_class
    processing_class = copy.deepcopy(processing_class)
    tokenizer = text_tokenizer(processing_class)
    if args.eos_token is not None:
        tokenizer.eos_token = args.eos_token
    path = args.chat_template_path
    if path is not None and os.path.isfile(path) and path.endswith((".jinja", ".j2")):
        with open(path, encoding="utf-8") as file:
            processing_class.chat_template = file.read()
    elif path is not None:  # what `trl.clone_chat_template` does to the tokenizer
        other = AutoTokenizer.from_pretrained(path)
        processing_class.chat_template = other.get_chat_template()
        added = other.added_tokens_decoder.values()
        tokenizer.add_tokens([token for token in added if token.content not in tokenizer.vocab])
        tokenizer.eos_token = other.eos_token
    return processing_class


def _training_template(processing_class: Any, args: Any) -> str | None:
    if not args.assistant_only_loss or has_generation_markers(processing_class.chat_template):
        return None
    return get_training_chat_template(processing_class)


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
    """The first row that cannot be tokenised by itself, and why."""
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


# Images ---------------------------------------------------------------------------------------------------------


def collate_images(
    kind: str, dataset: Dataset, processing_class: Any, args: Any, numbers: np.ndarray | None = None
) -> Dataset:
    """As `tokenise` for pairs or single answers with images: through TRL's collator, one row at a time.

    Raises:
        UserError: A row that the processor refuses.
    """
    tokenizer = text_tokenizer(processing_class)
    tokenizer.pad_token = args.pad_token or tokenizer.pad_token or tokenizer.eos_token
    method = METHODS[kind]
    collator = (
        DataCollatorForVisionPreference(processor=processing_class)
        if method.is_paired
        else DataCollatorForVisionUnpairedPreference(processor=processing_class, calculate_kl=False)
    )
    columns: dict[str, list] = {name: [] for name in method.token_columns}
    for place, row in enumerate(dataset):
        try:
            batch = collator([row])
        except Exception as error:
            raise _refusal(place if numbers is None else int(numbers[place]), error) from error
        sequences = [
            (ids[mask.bool()].tolist(), int(scored.sum()))
            for ids, mask, scored in zip(
                batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
            )
        ]
        ids, scored = sequences[0]
        columns["prompt_ids"].append(ids[: len(ids) - scored])
        for name, (ids, scored) in zip(method.token_columns[1:], sequences, strict=True):
            columns[name].append(ids[len(ids) - scored :])
    return Dataset.from_dict({**columns, **({} if method.is_paired else {"label": dataset["label"]})})
