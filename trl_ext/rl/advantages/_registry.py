"""Find the advantages: every file of this package whose name does not start with an underscore."""

import difflib
import importlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import trl_ext.rl.advantages
from trl_ext.rl.advantages._declaration import AdvantageInfo, read
from trl_ext.support import declarations, messages


def available() -> tuple[str, ...]:
    """Names of all advantages, sorted."""
    return tuple(sorted(_files()))


def describe(name: str) -> AdvantageInfo:
    """Declaration of the advantage with this name. ValueError with similar names for an unknown name."""
    path = _path(name)
    return _read(path, path.stat().st_mtime_ns)


def get(name: str) -> Callable[..., Any]:
    """The function with this name; imports torch. ValueError for an unknown name."""
    return getattr(importlib.import_module(f"trl_ext.rl.advantages.{_path(name).stem}"), name)


def readers(hyperparameter: str) -> tuple[str, ...]:
    """Names of the advantages that read this hyperparameter."""
    return tuple(name for name in available() if hyperparameter in describe(name).hyperparameters)


def _files() -> dict[str, Path]:
    return declarations.files(trl_ext.rl.advantages.__path__)


def _path(name: str) -> Path:
    files = _files()
    if isinstance(name, str) and name in files:
        return files[name]
    near = difflib.get_close_matches(str(name), files, n=3)
    nearest = f" Did you mean {messages.joined(near, 'or')}?" if near else ""
    raise ValueError(f"There is no advantage {name!r}.{nearest} Advantages: {', '.join(sorted(files))}.")


@lru_cache(maxsize=64)
def _read(path: Path, modified: int) -> AdvantageInfo:
    return read(path)
