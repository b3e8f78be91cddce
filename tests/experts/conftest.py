"""A tiny mixture of experts with the tokenizer of the tiny model."""

import pytest
from transformers import AutoTokenizer, Qwen3MoeConfig

from tests.experts.helpers import SIZES, save


@pytest.fixture(scope="session")
def mixture(tiny_model, tmp_path_factory) -> str:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    sizes = SIZES | {"vocab_size": len(tokenizer), "router_aux_loss_coef": 0.1}
    folder = tmp_path_factory.mktemp("mixture")
    tokenizer.save_pretrained(folder)
    return save(Qwen3MoeConfig(**sizes, moe_intermediate_size=64, num_experts=4, head_dim=16), folder)
