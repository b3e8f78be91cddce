"""Rules about the implementation of attention."""

import importlib.util
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings
from trl_ext.support import messages


@problem("attn_implementation")
def attention(s: Settings) -> Iterator[str]:
    given = s["attn_implementation"]
    names = attention_names()
    if given and "/" not in given and given.removeprefix("paged|") not in names:
        yield (
            f"{s.where('attn_implementation')} is {given}, which transformers does not have: {messages.one_of(given, names)} "
            "Others are kernels on the Hub (org/name)."
        )


@lru_cache
def attention_names() -> tuple[str, ...]:
    """The implementations of attention that the installed transformers has by name, from its source."""
    package = importlib.util.find_spec("transformers").submodule_search_locations[0]
    text = Path(package, "modeling_utils.py").read_text(encoding="utf-8")
    mapping = text.partition("class AttentionInterface")[2].partition("_global_mapping = {")[2].partition("}")[0]
    return ("eager", *re.findall(r'"(\w+)":', mapping))
