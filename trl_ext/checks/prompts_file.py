"""Find out from its first rows whether a local file holds prompts, without importing `datasets`."""

from collections.abc import Mapping
from pathlib import Path

from trl_ext.data.files.problems import find_problem, problem_of_folder
from trl_ext.data.formats import Sample, recognise
from trl_ext.data.formats.messages import is_blank
from trl_ext.data.formats.sample import LABELS
from trl_ext.data.recognise_file import MOST, sample_of_file
from trl_ext.support.errors import UserError
from trl_ext.support.messages import joined, shown_text

PLACEHOLDER = "…"
"""A completion for rows that have none, so that the formats of labelled completions recognise their prompts."""


def problem(name: str, columns: Mapping[str, str] | None = None) -> str | None:
    """The end of a sentence about a file or folder without prompts; `None` if it has some, or if only loading it tells.

    Args:
        name: File, folder, or name on the Hub, which is not judged.
        columns: `dataset_columns`.
    """
    path = Path(name).expanduser()
    if path.suffix == ".txt":
        return _problem_of_text(path)
    if (reason := problem_of_folder(path) if path.is_dir() else find_problem(path)) is not None:
        return f"which cannot be read: {reason}"
    try:
        found = sample_of_file(path, columns)
    except UserError as error:
        return f"which has no such columns. {error}"
    return None if found is None or _has_prompts(found) else _without(found)


def _problem_of_text(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return f"which cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'}). Check the file."
    return None if text.strip() else "which has no prompts: every line is empty. Write one prompt per line."


def _has_prompts(found: Sample) -> bool:
    if found.has("prompt"):
        whole = len(found.rows) < MOST
        return not whole or any(not _is_empty(row.get("prompt")) for row in found.rows)
    if recognise(found) is not None:
        return True
    rows = [{**row, "label": True, "completion": PLACEHOLDER} for row in found.rows]
    names = [name for name in found.columns if name not in LABELS]
    return recognise(Sample([*dict.fromkeys([*names, "label", "completion"])], rows)) is not None


def _is_empty(value: object) -> bool:
    return not value or (isinstance(value, str) and not value.strip()) or (isinstance(value, list) and is_blank(value))


def _without(found: Sample) -> str:
    if found.has("prompt"):
        return "which has no prompts: the column `prompt` is empty in every row. Choose another file."
    names = joined([f"`{shown_text(name)}`" for name in found.columns])
    return f"which has no prompts: its columns are {names}. Name the column of the prompts: `dataset_columns: {{prompt: COLUMN}}`."
