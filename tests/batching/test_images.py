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
    "qwen 3 vl, mixture": ("qwen3_vl_moe", {
        "text_config": {
            **TEXT, "rope_parameters": ROPE | {"mrope_interleaved": True}, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        }, **IDS,
        "vision_config": {**GRIDS, "hidden_size": 16, "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    }, 4),
    "glm 4v": ("glm4v", {
        "text_config": {**TEXT, "rope_parameters": ROPE | {"mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}},
        "vision_config": {**TOWER, "depth": 2, "num_heads": 2, "out_hidden_size": 32},
        "image_token_id": IMAGE, "video_token_id": VIDEO, "image_start_token_id": START, "image_end_token_id": END,
        "video_start_token_id": 94, "video_end_token_id": 95,
    }, 4),
    "llava next": ("llava_next", {
        "text_config": {"model_type": "llama", **TEXT}, "vision_config": {"model_type": "clip_vision_model", **TOWER},
        "image_token_index": IMAGE, "vision_feature_layer": -1, "image_grid_pinpoints": [[16, 32], [32, 16], [16, 16]],
    }, 36),
    "llava onevision": ("llava_onevision", {
        "text_config": {"model_type": "qwen2", **TEXT}, "vision_config": {"model_type": "siglip_vision_model", **TOWER},
        "image_token_index": IMAGE, "vision_feature_layer": -1, "image_grid_pinpoints": [[16, 32], [32, 16], [16, 16]],
    }, 36),
    "internvl": ("internvl", {
        "text_config": {"model_type": "qwen2", **TEXT}, "image_token_id": IMAGE,
        "vision_config": {**TOWER, "image_size": [16, 16], "patch_size": [4, 4]},
    }, 4),
    "mistral 3": ("mistral3", {
        "text_config": {"model_type": "mistral", **TEXT, "sliding_window": None}, "image_token_index": IMAGE,
        "vision_config": {"model_type": "pixtral", **TOWER, "head_dim": 8},
    }, 4),
    "aya vision": ("aya_vision", {
        "text_config": {"model_type": "cohere2", **TEXT, **MIXED}, "image_token_index": IMAGE,
        "vision_config": {"model_type": "siglip_vision_model", **TOWER},
    }, 4),
    "cohere 2 vision": ("cohere2_vision", {
        "text_config": {"model_type": "cohere2", **TEXT, **MIXED}, "image_token_id": IMAGE, "alignment_intermediate_size": 64,
        "vision_config": {"model_type": "siglip_vision_model", **TOWER},
    }, 4),
    "gemma 4, window 6 and full": ("gemma4", {
        "text_config": {**TEXT, **MIXED, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97},
        "vision_config": {
            **TOWER, "num_key_value_heads": 2, "head_dim": 8, "pooling_kernel_size": 2, "position_embedding_size": 64,
        },
        "image_token_id": IMAGE, "video_token_id": VIDEO, "boi_token_id": START, "eoi_token_id": END, "audio_token_id": 94,
        "boa_token_id": 95, "eoa_token_index": 96,
    }, 4),
    "idefics 2": ("idefics2", {
        "text_config": {"model_type": "mistral", **TEXT, "sliding_window": None}, "vision_config": {**TOWER}, "image_token_id": IMAGE,
        "perceiver_config": {
            "hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 8,
            "num_key_value_heads": 1,
        },
    }, 4),
}  # fmt: skip
OWN_MASK = {
    "paligemma": ("paligemma", {
        "text_config": {"model_type": "gemma", **TEXT}, "image_token_index": IMAGE, "projection_dim": 32,
        "vision_config": {"model_type": "siglip_vision_model", **TOWER, "projection_dim": 32},
    }, 16),
}  # fmt: skip
"""A family that makes its mask before the language model, and is padded."""
OF_GRIDS = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v"}
OF_TILES = {"llava_next", "llava_onevision"}
"""Families that are given each image whole and in tiles, here one."""


def model_of(name: str):
    model_type, config, tokens = (FAMILIES | OWN_MASK)[name]
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
    elif kind == "gemma4":
        pixels = torch.rand(count, 16, 3 * 4 * 4)  # patches, and their places in the image
        batch["image_position_ids"] = (
            torch.cartesian_prod(torch.arange(4), torch.arange(4)).flip(1).repeat(len(sides), 1, 1)
        )
        batch["mm_token_type_ids"] = (batch["input_ids"] == IMAGE).long()
    else:
        several = {"idefics2": 1, "idefics3": 1, "smolvlm": 1} | dict.fromkeys(OF_TILES, 2)
        pixels = torch.randn(count, *((several[kind],) if kind in several else ()), 3, 16, 16)
    if kind in OF_TILES | {"mistral3"}:
        batch["image_sizes"] = torch.tensor([[16, 16]] * len(sides))
    if kind in ("gemma3", "paligemma"):
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
    assert (of_row - gradients).norm() < 2e-5 * gradients.norm()
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


def test_a_family_that_makes_its_mask_itself_is_padded():
    model, tokens = model_of("paligemma")
    batch = collated(model, tokens)
    with torch.no_grad():
        padded = forward.run(model, batch).per_token_logps.sum(dim=1)
        attention.switch(model)
        row = packed(model, batch)

        def score(one):
            return forward.run(model, {**row, "packed": one}).per_token_logps.sum(dim=1)

        assert (
            proof.prove(score, padded, row["packed"], [3, 1, 2, 2, 4, 1], torch.float32).reason
            == proof.CHANGES_ITS_MASK
        )
        again = forward.run(model, images.unpacked(row)).per_token_logps.sum(dim=1)
    assert torch.allclose(again, padded, rtol=1e-6, atol=1e-6)


def test_images_that_are_not_repeated_are_left_padded():
    model, tokens = model_of("llava")
    batch = collated(model, tokens)
    batch["pixel_values"][-1] += 1
    assert images.pack_pairs(batch) is None
