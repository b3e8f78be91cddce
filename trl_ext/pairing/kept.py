"""Keep a value per prompt on disk as soon as it is known, so that an interrupted command continues where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trl_ext.judging.judge import Prompt, as_record, key, of_record


class Kept:
    """A file of JSON lines, one per prompt. Lines that are torn, because the process was killed, are skipped.

    Args:
        path: The file. It and its folder are made when the first value is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            lines = path.read_bytes().splitlines()
        except OSError:
            lines = []
        self._values = dict(entry for line in lines if (entry := _entry(line)) is not None)

    def __contains__(self, prompt: Prompt) -> bool:
        return key(prompt) in self._values

    def __getitem__(self, prompt: Prompt) -> Any:
        """The value of a prompt. Raises KeyError if there is none."""
        return self._values[key(prompt)]

    def add(self, entries: Iterable[tuple[Prompt, Any]]) -> None:
        """Write values of prompts that have none yet as whole lines, and wait until they are on disk."""
        new = [(prompt, value) for prompt, value in entries if prompt not in self]
        if not new:
            return
        lines = [json.dumps({**as_record(prompt), "value": value}, ensure_ascii=False) for prompt, value in new]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            # A line break before each line ends one that was torn.
            file.write("".join(f"\n{line}\n" for line in lines).encode("utf-8", errors="surrogatepass"))
            file.flush()
            os.fsync(file.fileno())
        self._values.update((key(prompt), value) for prompt, value in new)


def _entry(line: bytes) -> tuple[str, Any] | None:
    try:
        record = json.loads(line)
        return key(of_record(record)), record["value"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
