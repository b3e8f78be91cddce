"""A cache with room, against transformers' own cache, which concatenates."""

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from trl_ext.trainers.rollout import preallocated_cache

ROWS = torch.tensor([1, 0, 0, 1])
PROMPT, MORE = 5, 6


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=2, **sizes)).eval()


@torch.no_grad()
def continued(model, cache, length=None, change=lambda cache: None):
    """Logits of the tokens after two prompts, each continued twice, and the cache."""
    tokens = torch.randint(32, (4, PROMPT + MORE), generator=torch.Generator().manual_seed(1))
    prompts = torch.randint(32, (2, PROMPT), generator=torch.Generator().manual_seed(2))
    model(input_ids=prompts, past_key_values=cache)
    if length is None:
        cache.batch_select_indices(ROWS)
    else:
        preallocated_cache.with_room(cache, ROWS, length)
    logits = []
    for at in range(MORE):
        logits.append(model(input_ids=tokens[:, at : at + 1], past_key_values=cache).logits)
        if at == 2:
            change(cache)
            tokens = tokens[: len(cache.layers[0].keys)]
    return logits, cache


@pytest.mark.parametrize("length", [PROMPT, PROMPT + 3, PROMPT + MORE, 2 * (PROMPT + MORE)])
def test_it_holds_what_concatenation_holds(model, length):
    usual, expected = continued(model, DynamicCache(config=model.config))
    found, cache = continued(model, DynamicCache(config=model.config), length)
    for one, other in zip(found, usual, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert cache.get_seq_length() == PROMPT + MORE
    for layer, other in zip(cache.layers, expected.layers, strict=True):
        assert torch.allclose(layer.keys, other.keys, atol=1e-6) and torch.allclose(
            layer.values, other.values, atol=1e-6
        )


def test_new_tokens_are_written_and_old_ones_are_not_copied(model):
    cache = DynamicCache(config=model.config)
    places = set()
    continued(model, cache, PROMPT + MORE, lambda cache: places.add(cache.layers[0].keys.data_ptr()))
    assert places == {cache.layers[0].keys.data_ptr()}
    growing = DynamicCache(config=model.config)
    places.clear()
    continued(model, growing, None, lambda cache: places.add(cache.layers[0].keys.data_ptr()))
    assert places != {growing.layers[0].keys.data_ptr()}


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.crop(-2),
        lambda cache: cache.reorder_cache(torch.tensor([3, 2, 1, 0])),
        lambda cache: cache.batch_select_indices(torch.tensor([2, 0])),
    ],
    ids=["cropped", "reordered", "selected"],
)
def test_it_can_be_changed_as_transformers_own(model, change):
    usual, _ = continued(model, DynamicCache(config=model.config), None, change)
    found, _ = continued(model, DynamicCache(config=model.config), PROMPT + MORE, change)
    for one, other in zip(found, usual, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
