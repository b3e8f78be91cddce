"""The shapes the arithmetic is judged on, and a way to make them shallow."""

import copy

from trl_ext.planner.models import MODELS

GEMMA_3_TEXT = MODELS["google/gemma-3-12b-it"]["text_config"]

SHAPES = {
    "Llama-3.1-8B": MODELS["meta-llama/Llama-3.1-8B"],
    "Qwen3-8B": MODELS["Qwen/Qwen3-8B"],
    "Qwen3-14B": MODELS["Qwen/Qwen3-14B"],
    "Mistral-7B": MODELS["mistralai/Mistral-7B-v0.3"],
    "Gemma-3-12B": GEMMA_3_TEXT,
}


def shallow(config: dict, layers: int) -> dict:
    """The same configuration with fewer decoder layers."""
    config = copy.deepcopy(config)
    config.get("text_config", config)["num_hidden_layers"] = layers
    return config
