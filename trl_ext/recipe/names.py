"""Find a recipe by the word that names it: a file, or the name of a recipe that comes with trl-ext."""

from __future__ import annotations

from pathlib import Path

import trl_ext
from trl_ext.support import messages

ENDINGS = (".yaml", ".yml")

_INSTALLED = Path(trl_ext.__file__).parent / "recipes"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "recipes"
"""The recipes that come with trl-ext: beside the package in a checkout, inside it once it is installed (see setup.py)."""


def shipped() -> dict[str, Path]:
    """The files of the recipes that come with trl-ext, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"), key=lambda path: path.stem)}


def find(given: str | Path) -> Path:
    """The file that a word names. A local file wins over a recipe that comes with trl-ext.

    Args:
        given: A path; or a name, for `NAME.yaml` in this folder or else for the recipe of that name that comes with trl-ext.

    Returns:
        The file. The path as given if there is none; reading it then says so.
    """
    path, known = Path(given).expanduser(), shipped().get(str(given))
    if path.is_file() or len(path.parts) != 1:
        return path
    local = next((file for ending in ENDINGS if (file := Path(f"{given}{ending}")).is_file()), None)
    return local or (path if known is None else _from_here(known))


def replaced(given: str | Path) -> Path | None:
    """The recipe that comes with trl-ext if the word is its name and a local file is used in its place; else `None`."""
    known = shipped().get(str(given))
    return None if known is None or find(given).resolve() == known.resolve() else known


def word(path: Path) -> str:
    """The word for a command: the name of a recipe that comes with trl-ext, unless it is in this folder; else the path."""
    return path.stem if path.is_absolute() and path.parent == FOLDER else str(path)


def near(given: str | Path) -> list[str]:
    """Names of recipes that come with trl-ext and look like a word that names no file."""
    path = Path(given)
    if len(path.parts) != 1 and path.parent.name != FOLDER.name:
        return []
    name = path.stem if path.suffix in ENDINGS else path.name
    return [name] if name in shipped() else messages.nearest(name, shipped())


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
