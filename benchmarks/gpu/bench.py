"""Prepare a case: its model's folder, its data, and the base that its trainers use one after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoConfig

from benchmarks.gpu import data
from benchmarks.gpu.cases import Case
from benchmarks.gpu.random_base import RandomBase, architecture
from trl_ext.model_files.adapter import WEIGHTS

SMALL_ROWS, SHRINK = 64, 8
"""Number of rows of a small case, and the factor by which they are shortened."""
POSITIONS = 262_144
"""Maximum position embeddings, larger than any row."""


class Bench:
    """A case, ready to be measured.

    Args:
        case: The case.
        place: An empty folder.
        device: The device to measure on.
    """

    def __init__(self, case: Case, place: Path, device: torch.device) -> None:
        self.case, self.place, self.device = case, place, device
        self.folder, self.data = place / "model", place / "pairs.jsonl"
        write_model(self.folder, case.config)
        rows = data.table(case.lengths)
        if case.small:
            rows = [tuple(max(count // SHRINK, 2) for count in row) for row in rows[:SMALL_ROWS]]
        limit = data.LONGEST_PROMPT if case.recipe.trainer == "ppo" else None
        data.write(self.data, rows, data.words(case.config), limit)
        self.reward_adapter = place / "reward"
        if case.recipe.get("reward_adapter"):
            write_reward_adapter(self.reward_adapter, self.folder, case.recipe.get("lora_r"))
        self.base = RandomBase(device)


def write_model(folder: Path, config: dict[str, Any]) -> None:
    """Write a configuration, a tokenizer, and a weights file without tensors."""
    folder.mkdir(parents=True)
    config = json.loads(json.dumps(config))
    tokenizer = data.tokenizer(config.get("text_config", config)["vocab_size"])
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    for part in {id(part): part for part in (config, config.get("text_config", config))}.values():
        part |= ids
    config.get("text_config", config)["max_position_embeddings"] = POSITIONS
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer._set_processor_class(
        "PreTrainedTokenizerFast"
    )  # text needs no image processor, even for a multimodal model
    tokenizer.save_pretrained(folder)
    save_file({}, folder / "model.safetensors")


def write_reward_adapter(folder: Path, base: Path, rank: int) -> None:
    """Write a random reward model for the base: a LoRA on all linear layers and a scalar head."""
    config = AutoConfig.from_pretrained(base, num_labels=1)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="SEQ_CLS")
    lora.modules_to_save = ["score"]
    lora.base_model_name_or_path = str(base)
    with torch.device("meta"):
        model = get_peft_model(architecture(config, is_classifier=True)._from_config(config), lora)
    shapes = {name: weight.shape for name, weight in get_peft_model_state_dict(model).items()}
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.01 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    folder.mkdir()
    lora.save_pretrained(folder)
    save_file(weights, folder / WEIGHTS)
