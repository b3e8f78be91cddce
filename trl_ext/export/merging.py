"""Merge an adapter into the weights of its base: in float32, rounded once, one matrix at a time.

The base is the original one, never the 4-bit copy the adapter was trained on. Its files are mapped into memory and each
merged matrix replaces the one it was made from, so the merge needs little more memory than the merged model.
"""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoProcessor, PreTrainedModel
from transformers.trainer_utils import align_special_tokens

from trl_ext.build import pretrained
from trl_ext.build.quantised_base import in_float32
from trl_ext.checkpoints import staging
from trl_ext.export.source import Source
from trl_ext.support import quiet
from trl_ext.support.counts import size_of
from trl_ext.support.errors import UserError

SPARE = 2**26
"""Bytes reserved for the files beside the weights."""


def merge(source: Source, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Return the base with the adapter merged into its weights, on the CPU.

    PEFT computes each merged matrix, so every kind of LoRA is merged as PEFT defines it.

    Args:
        source: Adapter and base.
        dtype: Of the merged weights; the base's own if `None`. Weights that a model keeps in float32 stay float32.

    Raises:
        UserError: The adapter does not fit the base, or a merged weight is not finite.
    """
    # Into float32 from the start, because PEFT rounds modules that an adapter saves whole to the dtype of the base.
    model = load_base(source, dtype=dtype if dtype == torch.float32 else "auto", device_map=None)
    dtype = dtype or model.dtype
    kept = in_float32(model, dtype)
    wrapped = put_on(model, source)
    shared = _uses(model)
    for layer in list(wrapped.modules()):
        if isinstance(layer, BaseTunerLayer):
            _untie(layer.get_base_layer(), shared)
            _merge_layer(layer, dtype, kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All adapters are already merged|Input and output embeddings")
        model = wrapped.merge_and_unload()
    if not getattr(model.config, "tie_word_embeddings", True):
        model.config.get_text_config().tie_word_embeddings = False
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32 if id(parameter) in kept else dtype)
            _require_finite(parameter, name)
    return model.eval()


def load_base(source: Source, **options: Any) -> PreTrainedModel:
    """Load the 16-bit base; for a reward model as a sequence classifier, whose head the adapter provides."""
    quiet.hide_loading_bars()
    if source.is_classifier:
        options |= {"kind": AutoModelForSequenceClassification, "num_labels": 1}
    return pretrained.load(
        source.base, revision=source.revision, trust_remote_code=source.trust_remote_code, **options
    )


def put_on(model: PreTrainedModel, source: Source) -> PeftModel:
    """Put the adapter on the model, active and in float32.

    Raises:
        UserError: A weight of the adapter does not fit the model.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            wrapped = PeftModel.from_pretrained(model, source.folder)
        # A second time, because only this call reports the keys that do not match; the weights stay the same.
        found = wrapped.load_adapter(str(source.folder), "default")
    except (RuntimeError, ValueError, ImportError) as error:
        raise UserError(
            f"The adapter {source.folder} does not fit {source.base}: {str(error).strip().splitlines()[-1].strip()}"
        ) from error
    if astray := [*found.missing_keys, *found.unexpected_keys]:
        raise UserError(
            f"The adapter {source.folder} does not fit {source.base}: {astray[0]} is missing in one of them. Give the model "
            "it was trained on with `--base`."
        )
    return wrapped.eval()


def processor_of(source: Source) -> Any:
    """Load the processor or tokenizer the adapter was trained with: the one beside it, else the base's.

    Raises:
        UserError: It cannot be loaded.
    """
    is_beside = (source.folder / "tokenizer_config.json").exists()
    path, revision = (str(source.folder), None) if is_beside else (source.base, source.revision)
    try:
        return AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=source.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"The tokenizer of {path} cannot be loaded: {str(error).splitlines()[0]}") from error


@contextmanager
def staged(output: Path, size: int) -> Iterator[Path]:
    """Yield a temporary folder that becomes `output` if the block ends without an error.

    Args:
        output: A folder that does not exist yet, or is empty.
        size: Bytes that will be written.

    Raises:
        UserError: The disk has too little free space.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    require_space(output.parent, size, "The merged model takes")
    aside = output.parent / f".{output.name}.unfinished"
    shutil.rmtree(aside, ignore_errors=True)
    folder = aside / output.name
    folder.mkdir(parents=True)
    try:
        yield folder
        staging.publish(folder, output)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if not staging.is_disk_full(error):  # an error may also quote another program's
            raise
        raise UserError(
            "The disk is full. Nothing was written. Free some space, or choose another `--output`."
        ) from error


def require_space(folder: Path, size: int, what: str) -> None:
    """Refuse to write more bytes than a disk has.

    Args:
        folder: On the disk.
        size: Bytes that will be written.
        what: The beginning of the message: "The merged model takes".

    Raises:
        UserError: The disk has too little free space.
    """
    free = shutil.disk_usage(folder).free
    if size + SPARE > free:
        raise UserError(
            f"{what} {size_of(size + SPARE)}, but {folder.resolve()} has only {size_of(free)} free. Free some space, or choose another "
            "`--output`."
        )


def bytes_of(model: nn.Module) -> int:
    """Bytes of the weights on disk; tied weights are counted once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def save(model: PreTrainedModel, processor: Any, folder: Path, shard_size: str) -> None:
    """Save weights, configuration and tokenizer with its chat template, as `from_pretrained` reads them.

    The end tokens of the tokenizer become those of the model, as in training.
    """
    align_special_tokens(model, processor)
    if model.can_generate():
        try:
            model.generation_config.validate(strict=True)
        except ValueError:
            # Published configurations may set a temperature without `do_sample`; saving a changed one then fails.
            model.generation_config.do_sample = True
    model.save_pretrained(folder, max_shard_size=shard_size)
    processor.save_pretrained(folder)


def _uses(model: nn.Module) -> Counter[int]:
    """How many modules use each parameter, by its id."""
    return Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())


def _untie(module: nn.Module, uses: Counter[int]) -> None:
    """Give a module its own copy of a weight it shares with another module, because only this one has an adapter."""
    for name, parameter in module.named_parameters(recurse=False):
        if uses[id(parameter)] > 1:
            uses[id(parameter)] -= 1
            module.register_parameter(name, nn.Parameter(parameter.data.clone(), requires_grad=False))


@torch.no_grad()
def _merge_layer(layer: BaseTunerLayer, dtype: torch.dtype, kept: set[int]) -> None:
    parameters = list(layer.get_base_layer().parameters(recurse=False))
    before = [parameter.data for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    layer.merge()
    for parameter, old in zip(parameters, before, strict=True):
        target = torch.float32 if id(parameter) in kept else dtype
        # In place: the mapped page of the file is replaced, and no second matrix is kept.
        parameter.data = old.copy_(parameter.data) if old.dtype == target else parameter.data.to(target)


def _require_finite(weight: torch.Tensor, name: str) -> None:
    if not torch.isfinite(weight).all():
        raise UserError(
            f"The merged weight {name} holds infinities or NaN in {str(weight.dtype).removeprefix('torch.')}. Use "
            "`--dtype bfloat16`, which has the range of float32, or check the adapter for NaN."
        )
