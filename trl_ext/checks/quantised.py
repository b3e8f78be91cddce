"""Rules about a base that is stored quantised, judged by its config.json in a folder or in the cache of the Hub.

Other bases are judged by the same sentences before their weights are loaded (`trl_ext.build.quantised_base`).
"""

from collections.abc import Iterator
from typing import Any

from trl_ext.checks import packages, sharding
from trl_ext.checks.rule import LOSS, note, problem, requirement
from trl_ext.checks.settings import Settings
from trl_ext.model_files import adapter, local, quantised
from trl_ext.model_files.quantised import Stored

STORED_AS = {
    "bnb_4bit_quant_type": ("bnb_4bit_quant_type", "fp4"),
    "use_bnb_nested_quant": ("bnb_4bit_use_double_quant", False),
    "bnb_4bit_quant_storage": ("bnb_4bit_quant_storage", "uint8"),
}
"""Settings that were fixed when a 4-bit checkpoint was written: their names in its configuration, and the defaults there."""


@problem("model_name_or_path", "model_revision", "load_in_4bit", "load_in_8bit", recipe_only=True)
def contradiction(s: Settings) -> Iterator[str]:
    stored = _stored(s)
    if stored is not None:
        given = {key: s[key] for key in ("load_in_4bit", "load_in_8bit") if s[key]}
        yield from contradictions(stored, given, {key: s.where(key) for key in given})


@problem("model_name_or_path", "model_revision", *STORED_AS, recipe_only=True)
def other_settings(s: Settings) -> Iterator[str]:
    stored = _stored(s)
    if stored is not None and stored.is_bnb_4bit:
        given = {key: s[key] for key in STORED_AS if key in s}
        yield from other_than_stored(stored, given, {key: s.where(key) for key in given})


@problem("model_name_or_path", "model_revision", "use_peft", recipe_only=True)
def without_adapter(s: Settings) -> Iterator[str]:
    stored = _stored(s)
    if stored is not None and not s["use_peft"] and not _is_continued(s):
        yield from needs_adapter(stored, s.where("model_name_or_path"))


@problem("model_name_or_path", "model_revision", "use_peft", "precompute_ref_log_probs", LOSS, recipe_only=True)
def without_kept_reference(s: Settings) -> Iterator[str]:
    stored = _stored(s)
    reads_reference = s.loss.needs_reference and not s["precompute_ref_log_probs"]
    if stored is not None and reads_reference and not s["use_peft"] and not _is_continued(s):
        yield from needs_kept_reference(stored, s.where("model_name_or_path"), s.loss.name)


@problem("model_name_or_path", "model_revision", "use_vllm", recipe_only=True)
def sampled_by_vllm(s: Settings) -> Iterator[str]:
    stored = _stored(s) if s["use_vllm"] else None
    if stored is not None:
        yield unsampled_by_vllm(stored, s.where("use_vllm"))


@problem("model_name_or_path", "model_revision", "fsdp", recipe_only=True)
def sharded(s: Settings) -> Iterator[str]:
    stored = _stored(s) if sharding.is_on(s["fsdp"]) else None
    if stored is None:
        return
    storage = stored.settings.get("bnb_4bit_quant_storage") or "uint8"
    if stored.stays_quantised and not (stored.is_bnb_4bit and storage in sharding.STORAGE):
        as_what = f"{stored.title}, as {storage}" if stored.is_bnb_4bit else stored.title
        yield (
            f"{s.where('fsdp')} shards weights that are stored as {', '.join(sharding.STORAGE[:-1])} or {sharding.STORAGE[-1]}, and "
            f"{stored.model} is stored quantised ({as_what}). Name the 16-bit original with `load_in_4bit: true`."
        )


@requirement("model_name_or_path", "model_revision")
def trainable(s: Settings) -> Iterator[str]:
    stored = _stored(s)
    if stored is not None:
        yield from untrainable(stored, s.where("model_name_or_path"))


@note("model_name_or_path", "model_revision", recipe_only=True)
def dequantised(s: Settings) -> Iterator[str]:
    stored = _stored(s)
    if stored is not None and (sentence := on_loading(stored)):
        yield sentence


def contradictions(stored: Stored, given: dict[str, Any], where: dict[str, str]) -> Iterator[str]:
    """Sentences about `load_in_4bit` and `load_in_8bit` on a checkpoint that is stored otherwise.

    Args:
        given: Those of the two that are true.
        where: Their names in sentences.
    """
    for key in given:
        if stored.kind == quantised.BITSANDBYTES and key == f"load_in_{stored.bits}bit":
            continue
        yield (
            f"{where[key]} is true, but {stored.model} is stored quantised already ({stored.title}), and transformers cannot "
            f"quantise it again. Remove `{key}`, or name the 16-bit original."
        )


def other_than_stored(stored: Stored, given: dict[str, Any], where: dict[str, str]) -> Iterator[str]:
    """Sentences about settings of 4-bit quantisation that differ from those a checkpoint was written with."""
    for key, value in given.items():
        name, default = STORED_AS[key]
        fixed = stored.settings.get(name)
        fixed = default if fixed is None else fixed
        if value is not None and value != fixed:
            yield (
                f"{where[key]} is {_shown(value)}, but the weights of {stored.model} are stored with {name} {_shown(fixed)}, which "
                f"loading cannot change. Remove `{key}`, or name the 16-bit original with `load_in_4bit: true`."
            )


def needs_adapter(stored: Stored, where: str) -> Iterator[str]:
    """A sentence about a checkpoint whose weights stay quantised, so that they cannot be trained themselves."""
    if stored.stays_quantised and not stored.method.why_not:
        yield (
            f"{where} is {stored.model}, whose weights are stored quantised ({stored.title}) and stay frozen, so nothing would be "
            "trained: add `use_peft: true` to train a LoRA adapter on them."
        )


def needs_kept_reference(stored: Stored, where: str, loss: str) -> Iterator[str]:
    """A sentence about a checkpoint whose weights are dequantised and all trained, so that its reference is loaded again."""
    if stored.method.is_dequantised:
        yield (
            f"{where} is {stored.model}, which is stored quantised ({stored.title}) and dequantised when it is loaded, and the "
            f"reference that the loss {loss} reads would be loaded a second time in another way: add `use_peft: true`, with which "
            "policy and reference share one base."
        )


def unsampled_by_vllm(stored: Stored, where: str) -> str:
    """A sentence about a checkpoint that vLLM would load quantised, although it is sent weights that are not."""
    return (
        f"{where} is true, and {stored.model} is stored quantised ({stored.title}), which vLLM would load as it is and then be sent "
        f"weights that are not quantised: remove `use_vllm`. {_original(stored, is_alternative=True)}"
    )


def untrainable(stored: Stored, where: str) -> Iterator[str]:
    """Sentences about a checkpoint that cannot be trained, or not with the installed packages."""
    if (sentences := quantised.refusal(stored)) is not None:
        yield f"{where}: {sentences}"
        return
    if stored.is_bnb_4bit and stored.has_experts:
        yield (
            f"{where} is {stored.model}, a mixture of experts that is stored quantised ({stored.title}), and training on such "
            f"experts is not tested. {_original(stored)}"
        )
    absent = [pip for name, pip in stored.method.packages if not packages.is_installed(name)]
    if absent:
        yield (
            f"{where} is {stored.model}, which is stored quantised ({stored.title}) and loaded by packages that are not installed "
            f"here. Run `pip install {' '.join(absent)}`. {quantised.instead(stored.original, is_alternative=True)}"
        )


def on_loading(stored: Stored) -> str | None:
    """A sentence about a checkpoint that is dequantised when it is loaded."""
    if not stored.method.is_dequantised:
        return None
    return (
        f"{stored.model} is stored quantised ({stored.title}). Its weights are dequantised when they are loaded, and training takes "
        "the memory of unquantised weights."
    )


def _stored(s: Settings) -> Stored | None:
    return quantised.of_model(s["model_name_or_path"], s["model_revision"])


def _is_continued(s: Settings) -> bool:
    """Whether the model is an adapter, in a folder or in the cache of the Hub, whose training continues."""
    found = local.folder(s["model_name_or_path"], s["model_revision"])
    return found is not None and adapter.is_in(found)


def _original(stored: Stored, *, is_alternative: bool = False) -> str:
    return f"{quantised.instead(stored.original, is_alternative=is_alternative)} `load_in_4bit: true` quantises that when it is loaded."


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
