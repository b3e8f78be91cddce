"""Check that a model is on this computer or can be downloaded, before anything is loaded."""

from pathlib import Path

from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter
from trl_ext.support import hub


def require_model(name: str, revision: str | None = None) -> str | None:
    """Refuse a model that is neither on the Hub nor in its cache. For a local adapter, its base is checked.

    If the Hub does not respond and the cache has a copy, this process stays offline from then on.

    Args:
        name: A folder, whose content is not checked here, or a name on the Hub.
        revision: Commit, branch or tag.

    Returns:
        A sentence if the cached copy is used because the Hub cannot be reached; else `None`.

    Raises:
        UserError: With the fix.
    """
    if name == EMBEDDED:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return hub.require(name, revision)
    base = adapter.base_of(folder)
    if base is None or base.startswith((".", "/", "~")) or Path(base).is_dir():
        return None
    return hub.require(base, revision or adapter.revision_of(folder))
