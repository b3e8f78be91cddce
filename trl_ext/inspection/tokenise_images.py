"""Tokenise pairs or labelled completions with images through TRL's collators, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference
from trl.trainer.kto_trainer import DataCollatorForVisionUnpairedPreference

from trl_ext.inspection.special_tokens import text_tokenizer
from trl_ext.inspection.tokenise import refusal
from trl_ext.methods import Method


def tokenise_images(
    method: Method, dataset: Dataset, processing_class: Any, args: Any, numbers: np.ndarray | None = None
) -> Dataset:
    """The same as `tokenise` for data with images, one row at a time.

    Raises:
        UserError: The processor refuses a row.
    """
    tokenizer = text_tokenizer(processing_class)
    tokenizer.pad_token = args.pad_token or tokenizer.pad_token or tokenizer.eos_token
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
            raise refusal(place if numbers is None else int(numbers[place]), error) from error
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
