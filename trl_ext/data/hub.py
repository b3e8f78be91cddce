"""Names on the Hugging Face Hub: is it there, can it be reached, and what its errors mean."""

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

from trl_ext.data.hints import near
from trl_ext.support.errors import UserError
from trl_ext.support.hub import go_offline, why_offline

TIMEOUT = 10.0  # seconds for the one request that asks whether the dataset exists


def require_hub_dataset(name: str, revision: str | None) -> None:
    """Fail now if the Hub has no such dataset, or cannot be asked and there is no copy in the cache.

    Without this one request, loading repeats its own for half a minute before giving up. Where the copy in the cache has to do,
    this process stays offline from then on.

    Raises:
        UserError
    """
    if constants.HF_HUB_OFFLINE:
        if not is_cached(name):
            raise _unreachable(name, *why_offline())
        return
    try:
        HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT)
    except RevisionNotFoundError as error:
        raise UserError(f"{name} on the Hub has no revision `{revision}`.") from error
    except GatedRepoError as error:
        raise UserError(f"{name} is gated: accept its terms on its Hub page, then run `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        here = [entry.name for entry in Path.cwd().iterdir()]
        raise UserError(
            f"{name} is neither a file here{near(name, here)} nor a dataset on the Hub that "
            "can be seen without logging in; check the spelling, or run `hf auth login` if it is private."
        ) from error
    except HfHubHTTPError as error:
        if not is_cached(name):  # which loading falls back on
            raise _unreachable(name, str(error).splitlines()[0]) from error
    except Exception as error:  # httpx's, OSError's and the proxies' connection errors have no common base
        if not is_cached(name):
            raise _unreachable(name, type(error).__name__) from error
        go_offline()


def said_by_the_hub(error: Exception, name: str, config: str | None) -> UserError:
    """What loading a directory or a Hub dataset raised, as a sentence."""
    text = str(error).strip() or type(error).__name__
    if found := re.search(r"Unknown split \"?([^\".]+)\"?\. Should be one of \[(.*?)\]", text):
        known = re.findall(r"'([^']+)'", found[2])
        return UserError(
            f"{name} has no split `{found[1]}`{near(found[1], known)}; it has {', '.join(known) or 'none'}."
        )
    if "Config name is missing" in text or "BuilderConfig" in text:
        known = re.findall(
            r"'([^']+)'", text.split("available configs:")[-1].split("Available:")[-1].split("Example")[0]
        )
        known = [word for word in known if word != config]
        given = f"has no configuration `{config}`{near(config, known)}" if config else "has several configurations"
        return UserError(f"{name} {given}; set `dataset_config` to one of {', '.join(known)}.")
    if "scripts are no longer supported" in text:
        return UserError(
            f"{name} is loaded by a Python script, which is not run; load the Hub's Parquet copy of it "
            "instead (revision refs/convert/parquet)."
        )
    cause = error.__cause__ or error
    first = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
    return UserError(f"{name} cannot be loaded: {first}.")


def unusable_cache(error: Exception) -> str | None:
    """A sentence if loading failed for want of a place to keep what is loaded, as under a home nobody may write to."""
    cause, home = error.__cause__ or error, Path(datasets.config.HF_CACHE_HOME)
    if not isinstance(cause, OSError) or cause.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return None
    place = Path(cause.filename or "/dev/null")
    if not (home.is_relative_to(place) or place.is_relative_to(home)):
        return None
    return (
        f"Hugging Face's libraries keep data in {home}, which cannot be written to ({cause.strerror}): set HF_HOME to a folder "
        "that can."
    )


def is_cached(name: str) -> bool:
    """Whether there is a copy of a dataset in the cache."""
    folder = name.replace("/", "___")
    return (Path(datasets.config.HF_DATASETS_CACHE) / folder).is_dir()


def _unreachable(name: str, why: str, remedy: str = "check the network and try again") -> UserError:
    here = [entry.name for entry in Path.cwd().iterdir()]
    return UserError(
        f"{name} is not a file or directory here{near(name, here)}; it looks like a name on "
        f"the Hub, which could not be reached ({why}), and there is no copy of it in the cache. Give a path, "
        f"or {remedy}."
    )
