"""Refuse messages with parts that the model cannot read, such as images for a model that reads text only."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset, Json, Value
from transformers import ProcessorMixin

from trl_ext.data.formats import content_parts
from trl_ext.support.errors import UserError

CONVERSATIONS = ("prompt", "chosen", "rejected", "gold", "completion", "messages")
SEEN = ("image",)
"""Parts, besides text, that TRL's trainers hand to a vision-language model."""


def refuse_unreadable(dataset: Dataset, processing_class: Any, numbers: np.ndarray | None) -> None:
    """Check every message whose content is a list of parts.

    Args:
        dataset: The examples.
        processing_class: Tokenizer, or the processor of a vision-language model.
        numbers: The number of each example's row (default: its position).

    Raises:
        UserError: A part is not readable.
    """
    sees = isinstance(processing_class, ProcessorMixin)
    columns = [name for name in CONVERSATIONS if name in dataset.column_names and _may_hold_parts(dataset, name)]
    start = 0
    for batch in dataset.select_columns(columns).iter(1000) if columns else ():
        for place, conversations in enumerate(zip(*batch.values(), strict=True), start):
            for message in (message for conversation in conversations for message in conversation):
                for part in content_parts.others(message["content"]):
                    if not sees or content_parts.kind_of(part) not in SEEN:
                        raise _error(place if numbers is None else int(numbers[place]), message["role"], part, sees)
        start += len(next(iter(batch.values())))


def _error(number: int, role: str, part: Any, sees: bool) -> UserError:
    kind = content_parts.kind_of(part)
    if "image" not in kind:
        why, then = "which no trainer reads", "Write it as text, or remove these parts"
    elif sees:
        why, then = "which TRL does not read", "Store images in a column `images`, each with a part `type: image`"
    else:
        why, then = "but the model reads text only", "Choose a vision-language model, or remove these parts"
    return UserError(f"Row {number:,}: the content of a message ({role}) has a part of type `{kind}`, {why}. {then}.")


def _may_hold_parts(dataset: Dataset, name: str) -> bool:
    """True if the messages in a column can have a content that is not a string."""
    message = getattr(dataset.features[name], "feature", None)
    return isinstance(message, Json) or (isinstance(message, dict) and not isinstance(message["content"], Value))
