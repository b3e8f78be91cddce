"""Report errors of a trainer's construction as user errors that name the setting to change."""

import contextlib
from collections.abc import Iterator
from typing import Any

from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError

NO_FLASH_ATTENTION = "FlashAttention"
"""Part of the ImportError that transformers raises when a kernel named in `attn_implementation` is missing."""

NO_TRACKER = "to be installed"
"""Part of the RuntimeError that transformers raises when a tracker named in `report_to` is missing."""

HUB_CLIENTS = ("huggingface_hub", "httpx", "httpcore", "requests")
"""Packages whose exceptions mean that a request to the Hub failed."""


@contextlib.contextmanager
def as_user_errors(recipe: Recipe, args: Any) -> Iterator[None]:
    """Construct a trainer inside.

    Args:
        recipe: Its recipe.
        args: Its configuration.

    Raises:
        UserError: Problems that need the constructed model (an unknown LoRA target, an adapter on the head, …), a missing
            package, or a repository that cannot be created on the Hub.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error
    except ImportError as error:
        if NO_FLASH_ATTENTION not in str(error):
            raise
        reason = str(error).rpartition("error: ")[2]
        raise UserError(
            f"`attn_implementation` is {recipe.get('attn_implementation')}, and {reason} Remove it: packed rows use PyTorch's "
            "own flash kernels."
        ) from error
    except RuntimeError as error:
        if NO_TRACKER not in str(error):
            raise
        raise UserError(f"`report_to`: {error} Or remove it from `report_to`.") from error
    except Exception as error:
        if not args.push_to_hub or not is_of_the_hub(error):
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"`push_to_hub` is true, and the repository cannot be created on the Hub: {reason}. Check the network and run "
            "`hf auth login`, or upload the finished run with `hf upload`."
        ) from error


def is_of_the_hub(error: Exception) -> bool:
    """Whether an error is that of a request to the Hub."""
    return type(error).__module__.partition(".")[0].startswith(HUB_CLIENTS)
