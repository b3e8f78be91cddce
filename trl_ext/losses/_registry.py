"""Find the losses: every file of this package whose name does not start with an underscore."""

import difflib
from functools import lru_cache
from pathlib import Path

import trl_ext.losses
from trl_ext.losses._declaration import LossInfo, read
from trl_ext.support import declarations, messages


def available() -> tuple[str, ...]:
    """Canonical names of all losses, sorted."""
    return tuple(sorted(_files()))


def canonical(name: str) -> str:
    """Resolve a name or alias. ValueError with similar names for an unknown name."""
    files = _files()
    if isinstance(name, str) and name in files:
        return name
    aliases = _aliases()
    if isinstance(name, str) and name in aliases:
        return aliases[name]
    near = difflib.get_close_matches(str(name), [*files, *aliases], n=3)
    nearest = f" Did you mean {messages.joined(near, 'or')}?" if near else ""
    raise ValueError(
        f"There is no loss {name!r}.{nearest} Losses: {', '.join(sorted(files))}. "
        f"Aliases: {', '.join(f'{alias} ({target})' for alias, target in sorted(aliases.items()))}."
    )


def describe(name: str) -> LossInfo:
    """Declaration of the loss with this name or alias. ValueError for an unknown name."""
    path = _files()[canonical(name)]
    return _read(path, path.stat().st_mtime_ns)


def readers(hyperparameter: str) -> tuple[str, ...]:
    """Names of the losses that read this hyperparameter."""
    return tuple(name for name in available() if hyperparameter in describe(name).hyperparameters)


def _files() -> dict[str, Path]:
    return declarations.files(trl_ext.losses.__path__)


def _aliases() -> dict[str, str]:
    return {alias: name for name in available() for alias in describe(name).aliases}


@lru_cache(maxsize=256)
def _read(path: Path, modified: int) -> LossInfo:
    return read(path)
