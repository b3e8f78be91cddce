"""Read names of tasks of lm-evaluation-harness as a flag or a recipe gives them. The harness is not imported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.checks import known_tasks
from trl_ext.support.messages import shown
from trl_ext.support.paths import absent

ENDING = ".yaml"
"""The ending of task files: the harness reads no others."""


def split(given: Any) -> tuple[str, ...]:
    """The names in a text, which may hold several with commas, or in a list of such texts; none for anything else."""
    texts = given if isinstance(given, list) else [given]
    if not all(isinstance(text, str) for text in texts):
        return ()
    names = [name.strip() for text in texts for name in text.split(",")]
    return tuple(dict.fromkeys(filter(None, names)))


def problems(given: Any) -> Iterator[str]:
    """The end of a sentence for each thing that is wrong with the tasks of a flag or a recipe."""
    names = split(given)
    if not names:
        yield f"is {shown(given)}. Give names of tasks (`arc_easy,hellaswag`), or a folder of task files."
    for name in names:
        path = Path(name).expanduser()
        if "/" not in name and path.suffix not in (ENDING, ".yml") and not path.is_dir():
            if (end := known_tasks.problem(name, _places(names))) is not None:
                yield end
        elif not path.exists():
            yield f"names {name}, and {absent(path, 'file or folder')}"
        elif path.is_file() and path.suffix != ENDING:
            yield f"names {name}, which is no task file: the harness reads files that end in {ENDING}."
        elif path.is_dir() and "/" in name and not any(path.rglob(f"*{ENDING}")):
            yield f"names the folder {name}, in which no file ends in {ENDING}. Give a folder of task files."


def absolute(given: Any) -> Any:
    """The same tasks, named so that they are found from another directory."""
    return [str(Path(name).expanduser().resolve()) if _is_place(name) else name for name in split(given)]


def _places(names: tuple[str, ...]) -> list[Path]:
    return [Path(name).expanduser().resolve() for name in names if _is_place(name)]


def _is_place(name: str) -> bool:
    path = Path(name).expanduser()
    return path.is_file() or (path.is_dir() and any(path.rglob(f"*{ENDING}")))
