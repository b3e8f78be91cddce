"""Read a recipe for the planner: the counted model, how it is stored, and the rows it is trained on."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from trl_ext import demo
from trl_ext.checks import sharding
from trl_ext.model_files import adapter as adapter_files
from trl_ext.model_files import quantised
from trl_ext.model_files.quantised import Stored
from trl_ext.planner import configs, sampling, stored, training
from trl_ext.planner.memory import EAGER, GIB, SDPA, VARLEN, Row, Storage, weights
from trl_ext.planner.sampling import Sampling
from trl_ext.planner.shape import Adapter, Shape
from trl_ext.planner.stored import Scheme
from trl_ext.planner.training import Training
from trl_ext.support.errors import UserError

TOKENS_OF_A_PAIR, TOKENS_OF_AN_ANSWER = 800, 400
"""Assumed mean tokens of an example, if not given: instruction data, with the prompt of a pair counted once."""
PADDED_OVER_PACKED = 2.25
"""Tokens computed in padded rows per token in packed rows: the smallest measured ratio, on long pairs."""
COMPLETION_SHARE = 0.6
"""Assumed share of completion tokens in a row: instruction data. With short prompts the share is larger."""


@dataclass(frozen=True)
class Request:
    """A recipe in numbers.

    Attributes:
        model: Name or folder of the model.
        config: The content of its config.json.
        shape: The counted model.
        targets, parameters: LoRA targets in PEFT's form: `target_modules` and `target_parameters`.
        is_fused: Whether LoRA layers, norms and MLPs are those of `trl_ext.fused`.
        is_continued: Whether the adapter exists already, so that its rank cannot be chosen.
        storage: How weights are stored.
        training: How its trainer processes examples.
        sampling: What completions are sampled from.
        attention: Attention implementation of padded rows.
        cannot_pack: Why rows are padded; `None` if they are packed.
        examples_per_step: Examples per optimizer step on this process.
        examples: Examples of an epoch; `None` if unknown without the data.
        notes: Sentences about assumptions.
        stored: How the checkpoint is stored, if it is stored quantised.
    """

    model: str
    config: dict[str, Any]
    shape: Shape
    targets: Any
    parameters: list[str] | None
    is_fused: bool
    is_continued: bool
    storage: Storage
    training: Training
    attention: str
    cannot_pack: str | None
    examples_per_step: int
    examples: int | None
    notes: tuple[str, ...]
    sampling: Sampling = field(default_factory=Sampling)
    stored: Stored | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest possible example, which must fit in a row."""
        return self.training.sequences * self.training.length

    def row(self, tokens: int, kernel: str = VARLEN, width: int | None = None) -> Row:
        """A row of `tokens` tokens.

        Args:
            tokens: Padding included.
            kernel: Attention implementation of packed rows.
            width: Length of the sequences in padded rows; default: the maximum length.
        """
        activation = self.storage.weight
        sampled = self.training.cached_tokens, self.training.is_cache_static, self.sampling.during
        rest = (*sampled, self.training.reads_distributions)
        if self.cannot_pack is not None:
            width = min(width or self.training.length, tokens)
            share = 0.0 if self.training.is_classifier else COMPLETION_SHARE
            return Row(tokens, share, 1.0, self.attention, width, activation, *rest)
        shared = 1 + self.training.sequences * (1 - COMPLETION_SHARE)
        kernel = kernel if activation == 2 and self.shape.head_width <= 256 else "segments"
        return Row(tokens, COMPLETION_SHARE, shared, kernel, 0, activation, *rest)

    def mean_tokens(self, given: float | None = None) -> float:
        """Mean tokens of an example; an assumption unless given."""
        assumed = given or (TOKENS_OF_A_PAIR if self.training.sequences == 2 else TOKENS_OF_AN_ANSWER)
        return min(assumed * (PADDED_OVER_PACKED if self.cannot_pack is not None else 1), self.longest)


def read(recipe: Any) -> Request:
    """A `trl_ext.recipe.Recipe` as a `Request`.

    Raises:
        UserError: The recipe has no model, or one that cannot be counted.
    """
    effective, get = recipe.effective, recipe.get
    model = effective("model_name_or_path")
    if not isinstance(model, str) or not model:
        raise UserError("The recipe has no `model_name_or_path`, so it cannot be planned.")
    adapter = configs.adapter(model)
    has_adapter = adapter is not None or bool(get("use_peft"))
    base = _base(adapter, model) if adapter is not None else model
    config = configs.find(base, get("model_revision"))
    rank, targets, parameters = _lora(recipe, adapter) if has_adapter else (None, None, None)
    checkpoint = quantised.of_config(base, config)
    scheme = stored.scheme(checkpoint) if checkpoint is not None else None
    loaded = scheme if checkpoint is not None and checkpoint.stays_quantised else None
    bits = 4 if get("load_in_4bit") else 8 if get("load_in_8bit") else 16
    if checkpoint is not None:
        bits = loaded.bits if loaded is not None else 16
    is_fused = effective("fused_kernels") != "none" and not sharding.is_on(effective("fsdp"))
    shape = _count(
        _Config(config),
        rank,
        _hashable(targets),
        _hashable(parameters),
        bits < 16,
        is_fused,
        checkpoint if scheme else None,
    )
    if checkpoint is not None or sharding.is_on(effective("fsdp")):
        shape = replace(shape, expert_weights=())  # `trl_ext.experts.quantizer` leaves these as they are
    if adapter is not None:
        shape = replace(shape, adapter=_as_saved(shape.adapter, Path(model).expanduser()))
    weight = 4 if (get("dtype") or ("bfloat16" if has_adapter else "float32")) == "float32" else 2
    asked = training.read(recipe)
    if asked.is_classifier:
        shape = replace(shape, parameters=shape.parameters - shape.head, head=0)
    copied = adapter is not None and asked.needs_reference and not effective("sync_ref_model")
    frozen = asked.frozen_adapters + int(copied)
    storage = Storage(
        bits=bits,
        is_double=bool(loaded.is_double if loaded is not None else get("use_bnb_nested_quant")),
        weight=weight,
        trained=2 if effective("lora_dtype") == "bfloat16" or (not has_adapter and weight == 2) else 4,
        optimizer=str(effective("optim") or "adamw_torch"),
        copies=1 if has_adapter or not asked.needs_reference or effective("precompute_ref_log_probs") else 2,
        trained_adapters=asked.trained_adapters,
        frozen_adapters=frozen,
        scheme=loaded,
    )
    notes = list(asked.notes)
    if checkpoint is not None:
        notes += _about(checkpoint, scheme, shape, storage)
    return Request(
        model=model,
        config=config,
        shape=shape,
        targets=targets,
        parameters=parameters,
        is_fused=is_fused,
        is_continued=adapter is not None,
        storage=storage,
        training=asked,
        attention=EAGER if effective("attn_implementation") == "eager" or shape.is_eager else SDPA,
        cannot_pack=asked.cannot_pack or shape.cannot_pack or _auxiliary_loss(recipe, shape, asked),
        examples_per_step=effective("per_device_train_batch_size") * effective("gradient_accumulation_steps"),
        examples=_examples(recipe),
        notes=tuple(notes),
        sampling=sampling.read(recipe),
        stored=checkpoint,
    )


def _auxiliary_loss(recipe: Any, shape: Shape, asked: Training) -> str | None:
    """Why the load-balancing loss of a mixture of experts prevents packing; `None` without that loss."""
    given = recipe.get("router_aux_loss_coef")
    if asked.is_classifier or not (shape.router_aux_loss_coef if given is None else given):
        return None
    return (
        "the auxiliary loss of the router counts each token of a row once (`router_aux_loss_coef: 0.0` turns it off)"
    )


def _about(checkpoint: Stored, scheme: Scheme | None, shape: Shape, storage: Storage) -> list[str]:
    """Sentences about a checkpoint that is stored quantised: its size, how it is trained, or why it is not."""
    found = [sentences] if (sentences := quantised.refusal(checkpoint)) is not None else []
    if scheme is None:
        return [
            *found,
            f"The checkpoint is stored quantised ({checkpoint.title}), and its config.json does not say in how many bits. It is "
            "counted as if stored in 16 bits.",
        ]
    as_stored = sum(
        size for name, size in weights(shape, replace(storage, scheme=scheme, copies=1)).items() if name != "experts"
    )
    experts = scheme.expert_bytes(shape) if scheme.covers_experts else storage.weight * shape.experts
    if scheme.covers_experts:  # and the linear layers are not quantised
        as_stored += storage.weight * shape.quantised - scheme.linear_bytes(shape)
    size = (as_stored + experts) / GIB
    if checkpoint.stays_quantised:
        return [
            *found,
            f"The checkpoint is stored quantised ({checkpoint.title}): its weights take {size:.2f} GiB, as counted here.",
        ]
    original = checkpoint.original or "its 16-bit original"
    return [
        *found,
        f"The checkpoint is stored quantised ({checkpoint.title}), in {size:.2f} GiB. Its weights are dequantised when they are loaded, so "
        f"they are counted in {8 * storage.weight} bits. With `load_in_4bit: true`, {original} takes less memory.",
    ]


def _examples(recipe: Any) -> int | None:
    """Examples of an epoch if known from the recipe: a limit, or the embedded data."""
    limit = recipe.get("max_train_samples")
    if recipe.get("dataset_name") != demo.EMBEDDED:
        return limit
    with open(demo.DATA / "train.jsonl", encoding="utf-8") as lines:
        pairs = sum(1 for _ in lines)
    return min(limit or pairs, pairs) * (1 if recipe.paired else 2)


def _base(adapter: dict[str, Any], folder: str) -> str:
    base = adapter.get("base_model_name_or_path")
    if not isinstance(base, str):
        raise UserError(f"The adapter in {folder} does not name its base model (`base_model_name_or_path`).")
    return base


def _lora(recipe: Any, adapter: dict[str, Any] | None) -> tuple[int, Any, list[str] | None]:
    """Rank, target modules and target parameters: those of the continued adapter, else the recipe's."""
    if adapter is not None:
        rank, targets = adapter_files.rank_of(adapter), adapter.get("target_modules")
        if adapter.get("peft_type") != "LORA" or not rank or not isinstance(targets, str | list):
            raise UserError(
                f"The plan counts LoRA adapters only, and `model_name_or_path` is an adapter of type "
                f"{adapter_files.title(adapter)}."
            )
        return rank, targets, adapter.get("target_parameters") or None
    targets = recipe.effective("lora_target_modules")
    # TRL reads a list of one string as that string: `all-linear` or a regular expression.
    is_pattern = isinstance(targets, list) and len(targets) == 1 and not targets[0].isidentifier()
    parameters = recipe.get("lora_target_parameters") or None
    return int(recipe.effective("lora_r")), targets[0] if is_pattern else targets, parameters


def _as_saved(counted: Adapter, folder: Path) -> Adapter:
    """The adapter in a folder, counted from its weights: ranks differ between modules, and some modules are saved whole."""
    sizes = {
        name: math.prod(shape)
        for name, shape in adapter_files.shapes(folder).items()
        if not any(part in name for part in (".base_layer.", ".original_module.", ".modules_to_save."))
    }
    if not sizes:
        return counted  # in PyTorch's format
    layers = Counter()
    for name, size in sizes.items():
        layers[re.search(r"\.\d+\.|$", name)[0]] += size
    largest = max((size for layer, size in layers.items() if layer), default=0)
    return replace(counted, parameters=sum(sizes.values()), layer_parameters=largest)


class _Config(dict):
    """A hashable configuration for the cache: advice counts the same model many times."""

    def __hash__(self) -> int:
        return hash(repr(self))


def _hashable(targets: Any) -> Any:
    return tuple(targets) if isinstance(targets, list | set) else targets


@lru_cache(maxsize=64)
def _count(
    config: _Config,
    rank: int | None,
    targets: Any,
    parameters: Any,
    is_quantised: bool,
    is_fused: bool,
    checkpoint: Stored | None,
) -> Shape:
    from trl_ext.planner import counting

    names, parameters = (list(given) if isinstance(given, tuple) else given for given in (targets, parameters))
    return counting.count(
        dict(config), rank, names, parameters, is_quantised=is_quantised, is_fused=is_fused, stored=checkpoint
    )
