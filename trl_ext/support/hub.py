"""Check once, with a short request, that the Hugging Face Hub responds before anything is loaded from it.

Its client retries each request for half a minute, and a tokenizer alone takes a dozen requests, so without a network a run
would take minutes to fail. Downloads that have begun keep the client's own retries.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from trl_ext.support.errors import UserError

FILES = ("config.json", "adapter_config.json")
"""Every model or adapter has one of these."""
RETRY_SECONDS = 1.0
"""Wait before the second and last request, if the first one did not reach the Hub."""

_went_offline = False  # by `go_offline`, not by the user


@lru_cache
def require(name: str, revision: str | None) -> str | None:
    """Refuse a name that is neither on the Hub nor in its cache.

    If the Hub does not respond and the cache has a copy, this process stays offline from then on.

    Args:
        name: Repository on the Hub (org/name).
        revision: Commit, branch or tag.

    Returns:
        A sentence if the cached copy is used because the Hub cannot be reached; else `None`.

    Raises:
        UserError: With the fix.
    """
    try:
        is_cached = any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in FILES)
    except HFValidationError as error:
        raise UserError(
            f"{name!r} is neither a local folder nor a name on the Hub (org/name). Check the spelling."
        ) from error
    if constants.is_offline_mode():
        if is_cached:
            return None
        raise UserError(_absent(name, *why_offline()))
    try:
        why = why_unreachable(name, revision)
    except (UserError, HfHubHTTPError):
        if is_cached:
            return None
        raise
    if why is None:
        return None
    if not is_cached:
        raise UserError(_absent(name, f"the Hub cannot be reached ({why})", "check the network and try again"))
    go_offline()
    return f"The Hub cannot be reached ({why}), so the cached copy of {name} is used."


def why_unreachable(name: str, revision: str | None) -> str | None:
    """Send one small request about a model, and a second one if the first did not reach the Hub.

    Returns:
        The name of the network error; `None` if the Hub responded.

    Raises:
        UserError: The Hub has no such model, or it is gated or private.
    """
    url = hf_hub_url(name, FILES[0], revision=revision)
    for attempt in (1, 2):
        try:
            get_hf_file_metadata(url)
        except GatedRepoError as error:
            raise UserError(f"{name} is gated. Accept its terms on its Hub page, and run `hf auth login`.") from error
        except RepositoryNotFoundError as error:
            raise UserError(
                f"There is no local folder {name}, and no public model of that name on the Hub. Check the spelling, or run "
                "`hf auth login` if the model is private."
            ) from error
        except RevisionNotFoundError as error:
            raise UserError(
                f"`model_revision` is {revision}, but {name} has no such branch, tag or commit."
            ) from error
        except HfHubHTTPError:
            pass  # it responds: an adapter has no config.json, and the client retries when a server is busy
        except Exception as error:  # errors of connections, proxies and certificates have no common base class
            if attempt == 2 or "Timeout" in type(error).__name__:
                return type(error).__name__
            time.sleep(RETRY_SECONDS)
            continue
        return None
    return None


def go_offline() -> None:
    """Send no more requests to the Hub from this process and its children, as if HF_HUB_OFFLINE had been set."""
    global _went_offline
    import datasets

    _went_offline = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def why_offline() -> tuple[str, str]:
    """Why the Hub is not used, and the fix."""
    if _went_offline:
        return "the Hub cannot be reached", "check the network and try again"
    return "HF_HUB_OFFLINE is set", "unset it"


def _absent(name: str, why: str, remedy: str) -> str:
    return (
        f"{name} is neither a local folder nor in the Hub's cache, and {why}. {remedy.capitalize()}, give a local folder, or download the model "
        f"on a computer with a network (`hf download {name}`) and copy the cache."
    )
