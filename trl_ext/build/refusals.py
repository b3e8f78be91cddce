"""What goes wrong in the construction of a trainer, as a sentence about the setting that led there."""

import contextlib
from collections.abc import Iterator
from typing import Any

from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError


@contextlib.contextmanager
def in_a_sentence(recipe: Recipe, args: Any) -> Iterator[None]:
    """Inside, a trainer is constructed.

    Args:
        recipe: Its recipe.
        args: Its configuration.

    Raises:
        UserError: What only the constructed model can tell (an unknown LoRA target, an adapter on the head, …), a package
            that a setting needs, a repository that the Hub does not make.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error
    except ImportError as error:
        if "FlashAttention" not in str(error):
            raise
        why = str(error).rpartition("error: ")[2]
        raise UserError(
            f"`attn_implementation` is {recipe.get('attn_implementation')}, and {why} Remove it: packed rows use PyTorch's "
            "own flash kernels."
        ) from error
    except RuntimeError as error:
        if "to be installed" not in str(error):  # transformers about a tracker named in `report_to`
            raise
        raise UserError(f"`report_to`: {error} Or remove it from `report_to`.") from error
    except Exception as error:
        if not args.push_to_hub or not _is_of_the_hub(error):
            raise
        why = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"`push_to_hub` is on, and the repository cannot be made on the Hub: {why}. Check the network and "
            "`hf auth login`, or push the finished run with `hf upload`."
        ) from error


def _is_of_the_hub(error: Exception) -> bool:
    """Whether an error comes from the Hub's client or from the connection below it."""
    return type(error).__module__.partition(".")[0].startswith(("huggingface_hub", "httpx", "httpcore", "requests"))
