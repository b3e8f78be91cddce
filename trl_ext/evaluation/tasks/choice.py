"""Which tasks of the harness are measured, and how."""

from __future__ import annotations

from dataclasses import dataclass

BATCH = 16
"""Requests in one forward pass; halved, repeatedly if need be, where memory runs out."""


@dataclass(frozen=True)
class TaskChoice:
    """Tasks and settings, with the harness' own names and defaults.

    Attributes:
        names: Each is a task, group or tag of the harness, a pattern for these (`mmlu_*`), a task file, or a folder of task files.
        limit: Largest number of documents per task, the first ones; `None` for all.
        num_fewshot: Solved examples before each question; `None` for the task's own number.
        apply_chat_template: Whether questions are asked as user messages in the model's chat template.
        batch_size: Requests in one forward pass.
    """

    names: tuple[str, ...]
    limit: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    batch_size: int = BATCH
