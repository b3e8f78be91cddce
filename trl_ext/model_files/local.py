"""Find the folder of a model on this computer: given as a folder, or in the cache of the Hub. Uses no network."""

from pathlib import Path

from trl_ext import demo
from trl_ext.model_files import adapter

FILES = ("config.json", adapter.CONFIG)
"""Every model or adapter has one of these."""


def folder(name: str, revision: str | None = None, files: tuple[str, ...] = FILES) -> Path | None:
    """The folder of a model; `None` if it has to be downloaded. A folder in the cache may lack files that nobody asked for.

    Args:
        name: A folder, `embedded`, or a name on the Hub.
        revision: Commit, branch or tag on the Hub.
        files: The cache must have one of these.
    """
    if name == demo.EMBEDDED:
        return demo.MODEL
    path = Path(name).expanduser()
    return path if path.is_dir() else _in_cache(name, revision, files)


def base(name: str, revision: str | None = None) -> tuple[str, Path] | None:
    """Name and folder of the weights that a model is loaded from: of an adapter, those of its base. See `folder`.

    Args:
        name: As of `folder`.
        revision: Of the model on the Hub. If `name` is the folder of an adapter, of its base.
    """
    found = folder(name, revision)
    if found is not None and adapter.is_in(found):
        own = revision if Path(name).expanduser().is_dir() else None
        name = adapter.base_of(found)
        found = folder(name, own or adapter.revision_of(found)) if isinstance(name, str) and name else None
    return None if found is None else (name, found)


def _in_cache(name: str, revision: str | None, files: tuple[str, ...]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in files:
        try:
            found = try_to_load_from_cache(name, file, revision=revision or "main")
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None
