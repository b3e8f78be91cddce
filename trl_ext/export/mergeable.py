"""Refuse adapters that no weights of the base can stand for, by their configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl_ext.model_files import adapter as adapter_files

PER_TOKEN = {
    "alora_invocation_tokens": "An activated LoRA (aLoRA) is active only after its invocation tokens",
    "arrow_config": "An Arrow router chooses among several adapters at each token",
}
"""Settings of adapters whose effect depends on the token, with the reason as a sentence."""

FROM_DATA = ("pissa_niter", "corda", "lora_ga")
"""Beginnings of initialisations that change the base by random numbers or data, which loading the adapter does not repeat."""


def problem(folder: Path, content: dict[str, Any]) -> str | None:
    """An error message about an adapter that cannot be merged; `None` if it can.

    Args:
        folder: Of the adapter.
        content: Of its configuration.
    """
    kind = content.get("peft_type")
    if kind != "LORA":
        return (
            f"{folder} holds an adapter of type {kind}, but only LoRA can be merged. Load it with PEFT on "
            f"{content.get('base_model_name_or_path')}."
        )
    for key, reason in PER_TOKEN.items():
        if content.get(key):
            return f"The adapter in {folder} cannot be merged. {reason}, so no single weights do the same. Load it with PEFT."
    if content.get("layer_replication"):
        return (
            f"The adapter in {folder} cannot be merged. It repeats layers of the base (`layer_replication`), and the copies have "
            "different adapters. Load it with PEFT."
        )
    if moves_the_base(content):
        return (
            f"The adapter in {folder} cannot be merged. It was initialised by {content['init_lora_weights']}, which took a part "
            "out of the base that cannot be computed again from the base alone. Convert it to a plain LoRA where it was "
            "trained, with `save_pretrained(..., path_initial_model_for_weight_conversion=...)` of PEFT."
        )
    return None


def moves_the_base(content: dict[str, Any]) -> bool:
    """Whether the adapter belongs to a base that was changed in a way that loading the adapter does not repeat."""
    init = content.get("init_lora_weights")
    return isinstance(init, str) and init.lower().startswith(FROM_DATA)


NEEDED_BY_VLLM = (".lora_A.weight", ".lora_B.weight")
"""Ends of the names of the only weights that vLLM reads."""

UNKNOWN_TO_VLLM = (
    "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "target_parameters", "lora_bias", "trainable_token_indices",
    "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config",
    "monteclora_config",
)  # fmt: skip
"""Settings that vLLM refuses or does not read, nor does llama.cpp."""

ON_THE_BASE_AS_IT_IS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base as it is. With others, PEFT changes it when it loads the adapter, and vLLM does not."""


TEXT = {"language_model", "text_model"}
"""What models that read images call their language model, in the names of its modules."""


def beside_text(folder: Path) -> str | None:
    """A weight of an adapter that is not on the language model of a model that reads images; `None` if there is none."""
    names = sorted(adapter_files.shapes(folder))
    outside = [name for name in names if not TEXT.intersection(name.split("."))]
    return outside[0] if outside and len(outside) < len(names) else None


def serves_in_vllm(folder: Path, content: dict[str, Any]) -> bool:
    """Whether vLLM computes the adapter as PEFT does: plain LoRA on linear layers, of one rank and scale.

    Embeddings and the head are left out: it depends on the model whether vLLM supports them.
    """
    if content.get("peft_type") != "LORA" or any(content.get(key) for key in UNKNOWN_TO_VLLM):
        return False
    init = content.get("init_lora_weights")
    if content.get("bias") not in (None, "none") or not any(
        init is known or init == known for known in ON_THE_BASE_AS_IT_IS
    ):
        return False
    targets = [name.rpartition(".")[2] for name in adapter_files.listed(content.get("target_modules"))]
    return not any("embed" in name or name == "lm_head" for name in targets) and all(
        name.endswith(NEEDED_BY_VLLM) and ".lm_head." not in name for name in adapter_files.shapes(folder)
    )
