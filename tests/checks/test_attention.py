"""Implementations of attention are looked up in transformers' source, without importing it."""

import pytest

from tests.recipe.helpers import load
from trl_ext.checks.attention import attention_names


def test_attention_is_what_transformers_has():
    from transformers.modeling_utils import AttentionInterface

    theirs = {name.removeprefix("paged|") for name in AttentionInterface().valid_keys() if "trl_ext" not in name}
    assert set(attention_names()) == {"eager", *theirs}


@pytest.mark.parametrize("name", ["sdpa", "eager", "paged|eager", "kernels-community/flash-attn2"])
def test_attention_that_may_be_there(name, tmp_path):
    load(tmp_path, f"attn_implementation: {name}\n")
