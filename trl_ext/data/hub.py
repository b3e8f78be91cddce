"""Look for datasets on the Hugging Face Hub, and explain its errors."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import datasets
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from trl_ext.data.column_errors import near
from trl_ext.support.errors import UserError
from trl_ext.support.hub import go_offline, why_offline

TIMEOUT = 10.0  # seconds for the one request that asks whether the dataset exists


def require_hub_dataset(name: str, revision: str | None, *, is_path: bool = True) -> None:
    """Fail early if the Hub has no such dataset, or cannot be reached and the cache has no copy.

    Without this one request, loading retries for half a minute before it fails. If the copy in the cache has to be used, this
    process stays offline from then on.

    Args:
        name: Of the dataset.
        revision: Commit, branch or tag.
        is_path: Whether a path could have been meant.

    Raises:
        UserError: The dataset cannot be loaded.
    """
    if constants.HF_HUB_OFFLINE:
        if not is_cached(name):
            raise _unreachable(name, is_path, *why_offline())
        return
    try:
        HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT)
    except RevisionNotFoundError as error:
        raise UserError(f"{name} on the Hub has no revision `{revision}`.") from error
    except GatedRepoError as error:
        raise UserError(f"{name} is gated. Accept its terms on its Hub page, then run `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        here = [entry.name for entry in Path.cwd().iterdir()]
        raise UserError(
            f"{name} is neither a file in this folder{near(name, here)} nor a public dataset on the Hub. "
            "Check the spelling, or run `hf auth login` if the dataset is private."
        ) from error
    except HfHubHTTPError as error:
        if not is_cached(name):  # which loading would use
            raise _unreachable(name, is_path, str(error).splitlines()[0]) from error
    except Exception as error:  # httpx's, OSError's and the proxies' connection errors have no common base
        if not is_cached(name):
            raise _unreachable(name, is_path, type(error).__name__) from error
        go_offline()


def loading_error(error: Exception, name: str, config: str | None) -> UserError:
    """The error for what loading a directory or a Hub dataset raised."""
    text = str(error).strip() or type(error).__name__
    if found := re.search(r"Unknown split \"?([^\".]+)\"?\. Should be one of \[(.*?)\]", text):
        known = re.findall(r"'([^']+)'", found[2])
        return UserError(
            f"{name} has no split `{found[1]}`{near(found[1], known)}. It has {', '.join(known) or 'none'}."
        )
    if "Config name is missing" in text or "BuilderConfig" in text:
        known = re.findall(
            r"'([^']+)'", text.split("available configs:")[-1].split("Available:")[-1].split("Example")[0]
        )
        known = [word for word in known if word != config]
        given = f"has no configuration `{config}`{near(config, known)}" if config else "has several configurations"
        return UserError(f"{name} {given}. Set `dataset_config` to one of {', '.join(known)}.")
    if "scripts are no longer supported" in text:
        return UserError(
            f"{name} is loaded by a Python script, and scripts are not run. Load the Hub's Parquet copy instead: set "
            "`dataset_revision: refs/convert/parquet`."
        )
    cause = error.__cause__ or error
    first = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
    return UserError(f"{name} cannot be loaded: {first}.")


def unusable_cache(error: Exception) -> str | None:
    """A sentence if loading failed because the cache of Hugging Face cannot be written to."""
    cause, home = error.__cause__ or error, Path(datasets.config.HF_CACHE_HOME)
    if not isinstance(cause, OSError) or cause.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return None
    place = Path(cause.filename or "/dev/null")
    if not (home.is_relative_to(place) or place.is_relative_to(home)):
        return None
    return (
        f"Hugging Face's libraries keep data in {home}, which cannot be written to ({cause.strerror}). Set HF_HOME to a folder "
        "that can be written to."
    )


def is_cached(name: str) -> bool:
    """True if the cache has a copy of the dataset."""
    folder = name.replace("/", "___")
    return (Path(datasets.config.HF_DATASETS_CACHE) / folder).is_dir()


def _unreachable(name: str, is_path: bool, why: str, remedy: str = "check the network and try again") -> UserError:
    if not is_path:
        return UserError(
            f"{name} is on the Hub, but the Hub could not be reached ({why}) and the cache has no copy. {remedy[0].upper()}{remedy[1:]}."
        )
    here = [entry.name for entry in Path.cwd().iterdir()]
    return UserError(
        f"{name} is not a file or directory in this folder{near(name, here)}. It looks like a name on the Hub, but the Hub "
        f"could not be reached ({why}) and the cache has no copy. Give a path, or {remedy}."
    )
