"""Explain why a data file cannot be read, with the line to correct.

Every text completes "p.jsonl cannot be read: …" and ends with what to do.
"""

from __future__ import annotations

from pathlib import Path

from trl_ext.data.files.compression import ERRORS, damage, open_bytes, wrong_name
from trl_ext.data.files.encoding import not_utf8
from trl_ext.data.files.json_syntax import first_mistake, half_pair
from trl_ext.data.files.names import ALLOWED, TEXT, builder, kind
from trl_ext.data.files.no_rows import NOTHING, OBJECT, without_rows

QUICK = 2**23
"""Bytes that `find_problem` reads, which takes a tenth of a second."""
FILES = 16
"""Files of a folder that are looked at."""


def find_problem(path: Path) -> str | None:
    """The first problem in the first `QUICK` bytes of a file, which may hold no rows; `None` if there is none."""
    if not path.is_file() or builder(path) is None:
        return None
    if path.stat().st_size == 0:
        return "it is empty (0 bytes). Choose another file."
    if kind(path) == ".parquet":
        return _problem_of_parquet(path)
    if kind(path) not in TEXT:
        return None
    try:
        if problem := wrong_name(path):
            return problem
        raw, is_whole = _beginning(path)
    except ERRORS as error:
        return damage(path, error)
    if problem := not_utf8(raw, path):
        return problem
    text = raw.decode("utf-8-sig")
    mistake = first_mistake(text, is_whole=is_whole) if builder(path) == "json" else None
    return mistake or without_rows(path, text, is_whole)


def problem_of_folder(path: Path) -> str | None:
    """A sentence about a folder of files without one that can be read, or about its first file with a problem."""
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return None
    files = sorted(file for file in path.rglob("*") if builder(file) is not None and file.is_file())
    if not files:
        return f"it has no file that can be read. Allowed are {ALLOWED}."
    found = ((file, find_problem(file)) for file in files[:FILES])
    # Folders of datasets also hold JSON files about the dataset.
    problems = ((file, problem) for file, problem in found if problem is not None and not problem.startswith(OBJECT))
    return next((f"{file.relative_to(path)}: {problem}" for file, problem in problems), None)


def no_rows(path: Path) -> str | None:
    """Why a JSON file or a table holds no rows; `None` if it does, or if something else is wrong with it.

    `datasets` (5.2) ends the process on some of these files.
    """
    if kind(path) not in TEXT:
        return None
    try:
        raw, is_whole = _beginning(path)
        return without_rows(path, raw.decode("utf-8-sig"), is_whole)
    except (*ERRORS, UnicodeDecodeError):
        return None


def _problem_of_parquet(path: Path) -> str | None:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_metadata(path).num_rows
    except (OSError, pyarrow.ArrowInvalid) as error:
        return f"{str(error).splitlines()[0].rstrip('.')}. Copy or download it again."
    return NOTHING if rows == 0 else None


def extent(path: Path) -> str | None:
    """How much of a file `find_problem` reads, in words; `None` if it reads nothing."""
    if kind(path) not in TEXT or not path.is_file():
        return None
    return "all of it read" if _beginning(path)[1] else f"its first {QUICK >> 20} MiB read"


def explain(path: Path, error: Exception) -> str:
    """Why a file could not be loaded, after `error` was raised."""
    try:
        found = find_problem(path) or _look_at_all(path)
    except ERRORS as broken:
        found = damage(path, broken)
    if found:
        return found
    # datasets wraps what went wrong in "An error occurred while generating the dataset".
    cause = error.__cause__ or error
    if "corresponds to no data" in str(cause):
        return "it holds no rows."
    return f"{(str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip('.')}."


def _beginning(path: Path) -> tuple[bytes, bool]:
    """The first lines of a file, and whether they are all of it. No character and no text is cut in two."""
    with open_bytes(path) as file:
        raw = file.read(QUICK + 1)
    is_whole = len(raw) <= QUICK
    return (raw if is_whole else raw[: raw.rfind(b"\n") + 1]), is_whole


def _look_at_all(path: Path) -> str | None:
    if kind(path) not in TEXT:
        return None
    if builder(path) == "csv" or _is_in_lines(path):
        return _look_at_lines(path)
    with open_bytes(path) as file:
        raw = file.read()
    if problem := not_utf8(raw, path) or first_mistake(raw.decode("utf-8-sig")):
        return problem
    return f"it {problem}" if (problem := half_pair(raw)) else None


def _is_in_lines(path: Path) -> bool:
    """True if the first line is an object by itself. Files called .json may have one object per line as well."""
    with open_bytes(path) as file:
        first = next((line for line in file if line.strip()), b"")
    return first.lstrip()[:1] == b"{" and first_mistake(first.decode("utf-8-sig")) is None


def _look_at_lines(path: Path) -> str | None:
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            if problem := not_utf8(line, path, number):
                return problem
            if builder(path) == "csv":
                continue
            if problem := first_mistake(line.decode("utf-8-sig"), number):
                return problem
            if problem := half_pair(line):
                return f"line {number:,} {problem}"
    return None
