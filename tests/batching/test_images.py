"""Pairs with images in one packed row equal TRL's padded batch, and the tower for images sees each prompt's images once."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from trl.trainer.utils import add_fused_lm_head

from trl_ext.batching import attention, images, proof
from trl_ext.trainers.common import forward

IMAGE, START, END, VIDEO = 90, 91, 92, 93  # token ids
TEXT = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
TOWER = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
    "initializer_range": 0.2,
}  # fmt: skip
GRIDS = {
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "intermediate_size": 16,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6}

# Name → model type, its configuration, and the image tokens of one image.
FAMILIES = {
    "llava": ("llava", {
        "text_config": {"model_type": "llama", **TEXT}, "vision_config": {"model_type": "clip_vision_model", **TOWER},
        "image_token_index": IMAGE, "vision_feature_select_strategy": "default", "vision_feature_layer": -1,
    }, 16),
    "idefics 3": ("idefics3", {
        "text_config": {"model_type": "llama", **TEXT}, "vision_config": {**TOWER}, "image_token_id": IMAGE, "scale_factor": 2,
    }, 4),
    "smolvlm": ("smolvlm", {
        "text_config": {"model_type": "llama", **TEXT}, "vision_config": {**TOWER}, "image_token_id": IMAGE, "scale_factor": 2,
    }, 4),
    "gemma 3, window 6 and full": ("gemma3", {
        "text_config": {"model_type": "gemma3_text", **TEXT, **MIXED}, "vision_config": {**TOWER}, "mm_tokens_per_image": 4,
        "image_token_index": IMAGE, "boi_token_index": START, "eoi_token_index": END,
    }, 4),
    "qwen 2 vl": ("qwen2_vl", {
        "text_config": {**TEXT, "rope_parameters": ROPE}, **IDS,
        "vision_config": {**GRIDS, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 1},
    }, 4),
    "qwen 2.5 vl": ("qwen2_5_vl", {
        "text_config": {**TEXT, "rope_parameters": ROPE}, **IDS,
        "vision_config": {**GRIDS, "hidden_size": 16, "out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 8},
    }, 4),
    "qwen 3 vl": ("qwen3_vl", {
        "text_config": {**TEXT, "rope_parameters": ROPE | {"mrope_interleaved": True}}, **IDS,
        "vision_config": {**GRIDS, "hidden_size": 16, "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    }, 4),
}  # fmt: skip
OF_GRIDS = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}


def model_of(name: str):
    model_type, config, tokens = FAMILIES[name]
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # a projection that starts from zero would hide the images
                parameter.normal_(std=0.2)
    add_fused_lm_head(model)
    return model, tokens


def collated(model, tokens: int) -> dict:
    """Three pairs as TRL's collator gives them: all chosen, then all rejected, padded on the right. Prompts differ by their image only."""
    torch.manual_seed(1)
    prompt = [5, START, *[IMAGE] * tokens, END, 6, 7]
    sides = [[11, 12, 13], [14], [15, 16], [17, 18], [12, 13, 19, 20], [21]]
    width = len(prompt) + max(map(len, sides))
    names = ("input_ids", "attention_mask", "completion_mask")
    batch = {name: torch.zeros(len(sides), width, dtype=torch.long) for name in names}
    for row, side in enumerate(sides):
        length = len(prompt) + len(side)
        batch["input_ids"][row, :length] = torch.tensor([*prompt, *side])
        batch["attention_mask"][row, :length] = 1
        batch["completion_mask"][row, len(prompt) : length] = 1
    kind, count = model.config.model_type, len(sides) // 2
    if kind in OF_GRIDS:
        pixels = torch.randn(count * 16, 3 * 2 * 4 * 4)
        batch["image_grid_thw"] = torch.tensor([[1, 4, 4]] * len(sides))
        batch["mm_token_type_ids"] = (batch["input_ids"] == IMAGE).long()
    else:
        pixels = torch.randn(count, *((1,) if kind in ("idefics3", "smolvlm") else ()), 3, 16, 16)
    if kind == "gemma3":
        batch["token_type_ids"] = (batch["input_ids"] == IMAGE).long()
    return batch | {"pixel_values": torch.cat([pixels, pixels])}


def packed(model, batch: dict) -> dict:
    made = images.pack_pairs(batch)
    positions = images.own_positions(model.base_model, made)
    return made if positions is None else made | {"positions": positions}


def logps_and_gradients(model, batch: dict) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Summed log-probabilities, (S,), the gradient of their weighted sum over all weights, and the pixels that the tower saw."""
    seen = []
    tower = next(
        module
        for name, module in model.named_modules()
        if name.split(".")[-1] in ("vision_tower", "vision_model", "visual")
    )
    handle = tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append([*args, *kwargs.values()][0].numel()), with_kwargs=True
    )
    model.zero_grad()
    logps = forward.run(model, batch).per_token_logps.sum(dim=1)
    (logps * torch.arange(1, len(logps) + 1)).sum().backward()
    handle.remove()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return logps.detach(), torch.cat(gradients), sum(seen)


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_pairs_equal_padded_ones(name):
    model, tokens = model_of(name)
    batch = collated(model, tokens)
    padded, gradients, pixels = logps_and_gradients(model, batch)
    attention.switch(model)
    row = packed(model, batch)
    logps, of_row, once = logps_and_gradients(model, row)
    assert torch.allclose(logps, padded, rtol=1e-5, atol=1e-5)
    assert (of_row - gradients).norm() < 1e-5 * gradients.norm()
    assert once == pixels / 2
    assert row["packed"].input_ids.numel() < batch["attention_mask"].sum()
    again, *_ = logps_and_gradients(model, images.unpacked(row))
    assert torch.allclose(again, padded, rtol=1e-6, atol=1e-6)  # ordinary batches run as before
    swapped, *_ = logps_and_gradients(model, {**row, "pixel_values": row["pixel_values"].flip(0)})
    assert not torch.allclose(swapped, padded, atol=1e-3)  # so images matter


@pytest.mark.parametrize("name", ["llava", "gemma 3, window 6 and full", "qwen 3 vl"])
def test_the_proof_accepts_images_and_rejects_wrong_ones(name):
    model, tokens = model_of(name)
    batch = collated(model, tokens)
    with torch.no_grad():
        padded = forward.run(model, batch).per_token_logps.sum(dim=1)
        attention.switch(model)
        row = packed(model, batch)

        def outcome(**changes):
            def score(one):
                return forward.run(model, {**row, **changes, "packed": one}).per_token_logps.sum(dim=1)

            return proof.prove(score, padded, row["packed"], [3, 1, 2, 2, 4, 1], torch.float32)

        assert outcome().reason is None
        swapped = row["pixel_values"].flip(0)
        assert "disagree" in outcome(pixel_values=swapped).reason


def test_images_that_are_not_repeated_are_left_padded():
    model, tokens = model_of("llava")
    batch = collated(model, tokens)
    batch["pixel_values"][-1] += 1
    assert images.pack_pairs(batch) is None
