"""Read how a checkpoint that is stored quantised was quantised, by its config.json. Reads no weights and needs no torch.

A checkpoint is trained as it is stored (the adapter lies beside the quantised layers), or its weights are dequantised when they
are loaded, or it cannot be trained. `METHODS` says which, for the installed transformers and PEFT;
`tests/model_files/test_quantised.py` compares it with their quantizers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext import demo
from trl_ext.model_files import local

BITSANDBYTES = "bitsandbytes"


class Method(NamedTuple):
    """A way of quantising checkpoints.

    Attributes:
        title: Its name in sentences.
        why_not: Why it cannot be trained, as a clause; empty if it can.
        is_dequantised: Whether its weights are dequantised when they are loaded for training.
        packages: What loads it: names for import and for pip.
    """

    title: str
    why_not: str = ""
    is_dequantised: bool = False
    packages: tuple[tuple[str, str], ...] = ()


NUMBERS_OF_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What configurations call the number of experts of a layer."""

GPTQ_PACKAGES = (("gptqmodel", "gptqmodel"), ("optimum", "optimum"))
INFERENCE_ONLY = "transformers loads it for inference only"
UNTESTED = "trl-ext is not tested with it"

METHODS = {
    BITSANDBYTES: Method("bitsandbytes"),
    "awq": Method("AWQ", packages=GPTQ_PACKAGES),
    "gptq": Method("GPTQ", packages=GPTQ_PACKAGES),
    "fp8": Method("FP8", is_dequantised=True),
    "mxfp8": Method("MXFP8", is_dequantised=True),
    "mxfp4": Method("MXFP4", is_dequantised=True),
    "compressed-tensors": Method(
        "compressed-tensors", is_dequantised=True, packages=(("compressed_tensors", "compressed-tensors"),)
    ),
    "hqq": Method("HQQ", "the installed transformers cannot load HQQ checkpoints"),
    "fbgemm_fp8": Method("FBGEMM FP8", INFERENCE_ONLY),
    "nvfp4": Method("NVFP4", INFERENCE_ONLY),
    "auto-round": Method("AutoRound", INFERENCE_ONLY),
    "higgs": Method("HIGGS", INFERENCE_ONLY),
    "metal": Method("Metal", INFERENCE_ONLY),
    "quark": Method("Quark", INFERENCE_ONLY),
    "spqr": Method("SpQR", INFERENCE_ONLY),
    "vptq": Method("VPTQ", INFERENCE_ONLY),
    "gemma": Method("Gemma", INFERENCE_ONLY),
    "gguf": Method("GGUF", INFERENCE_ONLY),
    "bitnet": Method("BitNet", INFERENCE_ONLY),
    "fp_quant": Method("FP-Quant", INFERENCE_ONLY),
    "fouroversix": Method("Four Over Six", INFERENCE_ONLY),
    "torchao": Method("torchao", UNTESTED),
    "aqlm": Method("AQLM", UNTESTED),
    "eetq": Method("EETQ", UNTESTED),
    "quanto": Method("Quanto", UNTESTED),
    "sinq": Method("SINQ", UNTESTED),
}
"""Values of `quant_method` that the installed transformers knows."""


@dataclass(frozen=True)
class Stored:
    """How a checkpoint is stored.

    Attributes:
        model: Its folder or name.
        kind: Its `quant_method`.
        settings: Its `quantization_config`.
        original: Its 16-bit original; `None` if neither its configuration nor the card in its folder says so.
        has_experts: Whether it is a mixture of experts.
    """

    model: str
    kind: str
    settings: Mapping[str, Any] = field(hash=False)
    original: str | None = None
    has_experts: bool = False

    @property
    def method(self) -> Method:
        return METHODS.get(self.kind) or Method(self.kind, "transformers does not know this method")

    @property
    def bits(self) -> int | None:
        """Bits of a quantised weight; `None` if they differ or the configuration does not say."""
        if self.kind == BITSANDBYTES:
            return 4 if self.settings.get("load_in_4bit") else 8
        if self.kind in ("awq", "gptq"):
            return self.settings.get("bits") or self.settings.get("w_bit") or 4
        return {"fp8": 8, "mxfp8": 8, "fbgemm_fp8": 8, "mxfp4": 4, "nvfp4": 4}.get(self.kind)

    @property
    def title(self) -> str:
        """For sentences: ``bitsandbytes, 4 bits``, or ``FP8``."""
        return (
            f"{self.method.title}, {self.bits} bits"
            if self.kind in (BITSANDBYTES, "awq", "gptq")
            else self.method.title
        )

    @property
    def is_bnb_4bit(self) -> bool:
        return self.kind == BITSANDBYTES and self.bits == 4

    @property
    def stays_quantised(self) -> bool:
        """Whether layers are quantised while an adapter is trained beside them."""
        return not self.method.is_dequantised


def of_config(model: str, config: Mapping[str, Any], card: Mapping[str, Any] | None = None) -> Stored | None:
    """How the model of a config.json is stored; `None` if it is not quantised.

    Args:
        model: Its folder or name.
        config: The content of the file.
        card: See `original_of`.
    """
    found = next((s for part in (config, config.get("text_config")) if (s := _settings(part))), None)
    if found is None:
        return None
    is_bnb = found.get("load_in_4bit") or found.get("load_in_8bit")  # as transformers decides
    kind = BITSANDBYTES if is_bnb else str(found.get("quant_method")).lower()
    return Stored(model, kind, found, original_of(model, config, card), has_experts(config))


def of_model(name: Any, revision: str | None = None) -> Stored | None:
    """How the base of a recipe's `model_name_or_path` is stored; `None` if it is not quantised, or not on this computer.

    Args:
        name: As of `local.base`.
        revision: As of `local.base`.
    """
    if not isinstance(name, str) or not name or name == demo.EMBEDDED:
        return None
    found = local.base(name, revision)
    if found is None:
        return None
    name, folder = found
    return of_config(name, config_in(folder), card_in(folder))


def config_in(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json; empty if there is none, or a damaged one, which `model_files.model` reports."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def refusal(stored: Stored) -> str | None:
    """Sentences about a checkpoint that cannot be trained: how it is stored, why that is refused, what to name instead."""
    why = stored.method.why_not
    if not why:
        return None
    return (
        f"{stored.model} is stored quantised ({stored.title}). It cannot be trained: {why}. "
        f"{instead(stored.original)} `load_in_4bit: true` quantises that when it is loaded."
    )


def instead(original: str | None, *, is_alternative: bool = False) -> str:
    """A sentence that names the model to train.

    Args:
        original: Of `original_of`.
        is_alternative: Another remedy was given before.
    """
    name = "Or name" if is_alternative else "Name"
    if original is None:
        return f"{name} its 16-bit original. Its config.json does not say which model that is; its model card may."
    return f"{name} its 16-bit original, {original}."


def original_of(model: str, config: Mapping[str, Any], card: Mapping[str, Any] | None = None) -> str | None:
    """The 16-bit model that a quantised checkpoint was made from; `None` if neither configuration nor card says so.

    Args:
        model: Folder or name of the checkpoint.
        config: The content of its config.json.
        card: The metadata of its model card; default: read from the folder.
    """
    card = card_in(Path(model).expanduser()) if card is None else card
    listed = card.get("base_model")
    named = [
        config.get("base_model"),
        *(listed if isinstance(listed, list) else [listed]),
        config.get("_name_or_path"),
    ]
    return next((name for name in named if _is_another(name, model)), None)


def card_in(folder: Path) -> dict[str, Any]:
    """The metadata at the beginning of a folder's README.md; empty without any."""
    import yaml

    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        content = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def has_experts(config: Mapping[str, Any]) -> bool:
    """Whether a model is a mixture of experts: its configuration, or that of a part of it, gives their number."""
    numbers = [config.get(name) for name in NUMBERS_OF_EXPERTS]
    numbers = [number for given in numbers for number in (given if isinstance(given, list) else [given])]
    parts = (part for part in config.values() if isinstance(part, Mapping))
    return any(isinstance(number, int) and number > 1 for number in numbers) or any(map(has_experts, parts))


def _settings(config: Any) -> Mapping[str, Any] | None:
    found = config.get("quantization_config") if isinstance(config, Mapping) else None
    return found if isinstance(found, Mapping) and found else None


def _is_another(name: Any, model: str) -> bool:
    """Whether a name is that of another model: on the Hub, or a folder that exists."""
    if not isinstance(name, str) or not name or name == model:
        return False
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser().resolve() != Path(model).expanduser().resolve()
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))
