"""Check that an adapter fits its base: modules, sizes, ranks and vocabulary, by the headers of their files.

Weights are not read. Where the headers do not tell (files in PyTorch's format, models whose parameters transformers renames),
nothing is reported, and `trl_ext.build.adapter_fit` checks the adapter on the model's architecture before weights are loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.model_files import adapter, modules
from trl_ext.model_files.reward import heads_of
from trl_ext.support.counts import count

PREFIX = "base_model.model."
"""Beginning of the names of an adapter's weights, before the name of the module in the base."""
INTEGERS = ("U8", "I8", "I32", "U32", "I64")
"""Dtypes of packed weights of a quantised base, whose shapes are not those of the matrices."""
OTHER_BASE = "Set `base_model_name_or_path` in its adapter_config.json to the model it was trained on."
AXES = {
    "lora_A.weight": [(1, 1)],
    "lora_B.weight": [(0, 0)],
    "lora_embedding_A": [(1, 0)],
    "lora_embedding_B": [(0, 1)],
    "trainable_tokens_delta": [(1, 1)],
    "token_adapter.trainable_tokens_delta": [(1, 1)],
    "weight": [(0, 0), (1, 1)],
    "base_layer.weight": [(0, 0), (1, 1)],
    "modules_to_save.weight": [(0, 0), (1, 1)],
    "original_module.weight": [(0, 0), (1, 1)],
}
"""By the end of a weight's name: axes of it and of the base's matrix (outputs, inputs) that have the same size."""


class Base(NamedTuple):
    """A base model as its files describe it.

    Attributes:
        shapes: The shape of each module's weight by `_bare` name, `None` where it is packed or absent; empty if unknown.
        rows: Number of embeddings; `None` if unknown.
    """

    shapes: dict[str, list[int] | None]
    rows: int | None


def problem(folder: Path, base: Path) -> str | None:
    """An error message if the adapter in a folder does not fit the model in another one; `None` if it does or it is unknown."""
    content, weights = adapter.config(folder), adapter.shapes(folder)
    if content.get("layer_replication"):
        return None
    found = read_base(base)
    whys = (
        _tokens(content, found),
        _weights(content, weights, found),
        _left_out(content, weights),
        _targets(content, weights, found),
    )
    for why in chain(*whys):
        return f"The adapter in {folder} does not fit its base {base}: {why}"
    return None


def read_base(folder: Path) -> Base:
    """Read the headers and the configuration of a model."""
    shapes: dict[str, list[int] | None] = {}
    tensors = modules.tensors(folder)
    for name, entry in tensors.items():
        module, _, last = name.rpartition(".")
        if last == "weight" and entry.get("dtype") not in INTEGERS:
            shapes[_bare(module)] = list(entry["shape"])
        else:
            shapes.setdefault(_bare(module), None)
    rows = rows_of(folder)
    embedding = next((shape for name, shape in shapes.items() if _is_vocabulary(name) and shape), None)
    if shapes and "lm_head" not in shapes:  # tied to the embeddings
        shapes["lm_head"] = embedding
    return Base(shapes, embedding[0] if embedding else rows)


def rows_of(folder: Path) -> int | None:
    """Number of embeddings by the model's config.json; `None` if it is unknown."""
    rows = _config(folder).get("vocab_size")
    return rows if isinstance(rows, int) else None


def is_tied(folder: Path) -> bool:
    """Whether a model uses its embeddings as its head, by its config.json, else by its weights."""
    tensors = modules.tensors(folder)
    return _config(folder).get("tie_word_embeddings", bool(tensors) and "lm_head.weight" not in tensors) is True


def _config(folder: Path) -> dict[str, Any]:
    """The model's configuration, or that of its language model."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return content | dict(content.get("text_config") or {})


def _weights(content: dict[str, Any], weights: dict[str, list[int]], base: Base) -> Iterator[str]:
    """Modules that the base lacks, then weights of other sizes."""
    if not base.shapes:
        return
    heads = heads_of(weights)  # of classifiers, which a causal language model does not have
    places = {key: _place(key, base.shapes) for key in weights if key.startswith(PREFIX) and key not in heads}
    absent = sorted(
        {key.partition(".lora_")[0].removeprefix(PREFIX) for key, place in places.items() if place is None}
    )
    if absent:
        more = f" and {count(len(absent) - 1, 'other modules')}" if len(absent) > 1 else ""
        yield f"it was trained on {absent[0]}{more}, which the base does not have. {OTHER_BASE}"
    for key, place in places.items():
        if place is not None:
            yield from _size(content, key, weights[key], place, base.shapes[place.bare])
            yield from _rank(content, key, weights[key], place)


def _size(
    content: dict[str, Any], key: str, shape: list[int], place: _Place, matrix: list[int] | None
) -> Iterator[str]:
    axes = AXES.get(place.part, [])
    has_other_shapes = content.get("target_parameters") or content.get("use_bdlora")
    if matrix is None or not len(matrix) == len(shape) == 2 or has_other_shapes:
        return
    sizes = matrix[::-1] if content.get("fan_in_fan_out") and place.part.startswith("lora_") else matrix
    axis, other = next(((axis, other) for axis, other in axes if shape[axis] != sizes[other]), (None, None))
    if axis is None:
        return
    if other == 0 and _is_vocabulary(place.bare):
        yield (
            f"it was trained with {shape[axis]:,} embeddings, and the base has {sizes[0]:,}. Load the base, call "
            f"`model.resize_token_embeddings({shape[axis]})`, save it to a folder with its tokenizer, and set "
            "`base_model_name_or_path` in adapter_config.json to that folder."
        )
        return
    yield f"{key} has shape {_shown(shape)}, but {place.module} of the base has shape {_shown(matrix)}. {OTHER_BASE}"


def _rank(content: dict[str, Any], key: str, shape: list[int], place: _Place) -> Iterator[str]:
    """A rank other than the one that the configuration gives."""
    if place.part not in ("lora_A.weight", "lora_embedding_A") or content.get("peft_type") != "LORA":
        return
    patterns = dict(content.get("rank_pattern") or {})
    try:  # as `get_pattern_key` of PEFT
        key_of_it = next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", place.module)), None)
    except re.error:
        return
    rank = content.get("r") if key_of_it is None else patterns[key_of_it]
    if isinstance(rank, int) and shape[0] != rank and not content.get("target_parameters"):
        yield (
            f"adapter_config.json gives {place.module} rank {rank}, but {key} has shape {_shown(shape)}. Copy both files of "
            "the adapter again."
        )


def _tokens(content: dict[str, Any], base: Base) -> Iterator[str]:
    """Trained tokens that the base has no embedding for."""
    last = max(adapter.trained_tokens(content), default=0)
    if base.rows is not None and last >= base.rows:
        yield (
            f"it trains token {last:,}, and the base has {base.rows:,} embeddings. Resize the embeddings of the base as they "
            "were in training, save it, and set `base_model_name_or_path` in adapter_config.json to that folder."
        )


def _left_out(content: dict[str, Any], weights: dict[str, list[int]]) -> Iterator[str]:
    """Weights of modules that `target_modules` does not name: PEFT leaves them out and does not report it."""
    targets = content.get("target_modules")
    if (
        content.get("peft_type") != "LORA"
        or content.get("target_parameters")
        or not targets
        or targets == "all-linear"
    ):
        return
    modules_of = {key.removeprefix(PREFIX).partition(".lora_")[0] for key in weights if ".lora_" in key}
    try:  # as `check_target_module_exists` of PEFT
        if isinstance(targets, str):
            lost = sorted(name for name in modules_of if not re.fullmatch(targets, name))
        else:
            lost = sorted(name for name in modules_of if not any(f".{name}".endswith(f".{each}") for each in targets))
    except re.error:
        return
    if lost:
        yield (
            f"it has weights for {lost[0]}, which `target_modules` in its adapter_config.json does not name, so they would be "
            "left out. Copy both files of the adapter again, or correct `target_modules`."
        )


def _targets(content: dict[str, Any], weights: dict[str, list[int]], base: Base) -> Iterator[str]:
    """Targets none of which exist; where the names of the weights are known, they have been judged already."""
    targets = content.get("target_modules")
    if weights or not base.shapes or not isinstance(targets, list) or not targets:
        return
    if not any(
        name == target or name.endswith(f".{target}") for name in base.shapes for target in map(_bare, targets)
    ):
        yield f"it targets {', '.join(map(str, targets))}, none of which the base has. {OTHER_BASE}"


class _Place(NamedTuple):
    """A module of the base that a weight belongs to: its name in the model, its `_bare` name, and the end of the weight's name."""

    module: str
    bare: str
    part: str


def _place(key: str, shapes: dict[str, Any]) -> _Place | None:
    parts = key.removeprefix(PREFIX).split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        if (bare := _bare(module)) in shapes:
            return _Place(module, bare, ".".join(parts[end:]))
    return None


def _bare(module: str) -> str:
    """A module's name without the part before the list of layers, which differs between a model with and without its head."""
    parts = module.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[max(number - 1, 0) :]) if number is not None else parts[-1]


def _is_vocabulary(module: str) -> bool:
    return module in ("lm_head", "embed_out") or (modules.is_embedding(module) and "wpe" not in module)


def _shown(shape: list[int]) -> str:
    return f"({', '.join(map(str, shape))})"
