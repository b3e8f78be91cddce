"""Decide from an adapter's configuration whether it can be trained exactly. Reads no weights and needs no torch.

Exactly means: before the first step, the policy is the base with the adapter as PEFT loads it, and the reference is the base
without a new adapter, or an exact copy of the adapter that training continues from. `tests/trainers/test_adapter_table.py`
reproduces each verdict with every type of PEFT.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trl_ext.model_files import task

EXACT = (
    "LORA", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY",
    "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA",
    "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
)  # fmt: skip
"""Values of `peft_type` that are trained exactly, new or continued, except for the settings below."""

ON_QUANTISED_BASES = (
    "LORA", "BEFT", "BOFT", "C3A", "FOURIERFT", "GRALORA", "HIRA", "IA3", "LILY", "LN_TUNING", "MISS", "OFT", "ROAD", "SHIRA",
    "TRAINABLE_TOKENS", "VBLORA", "VERA", "WAVEFT",
)  # fmt: skip
"""Those of them that PEFT puts on 4-bit and 8-bit layers, and trains there."""

FLOAT_INITS = ("pissa", "mica", "orthogonal")
"""Beginnings of `init_lora_weights` that PEFT computes from 16-bit or 32-bit weights only."""

PROMPT_LEARNING = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE")
"""Types that only prepend virtual tokens."""

UNSUPPORTED = {
    "ADALORA": "its ranks are reallocated by calls of `update_and_allocate`, which no trainer here makes",
    "ADAPTION_PROMPT": "PEFT replaces the forward pass that log-probabilities are computed with",
    "MULTITASK_PROMPT_TUNING": "it needs a task id with every row",
    "POLY": "it needs a task id with every row",
    "PVERA": "it samples weights at random in every forward pass of training",
    "SHADOW": "it runs a transformer of its own beside the base, which would mix the sequences of a packed row",
    "XLORA": "it mixes several trained adapters on one base",
}
"""Other types of PEFT, with the reason why they are refused."""

OTHER_LORA = {
    "alora_invocation_tokens": "it takes effect from a place in the row on, and a row holds several sequences",
    "arrow_config": "it mixes several trained adapters on one base",
    "monteclora_config": "it samples weights at random in every forward pass of training",
}
"""Settings of LoRA, with the reason why they are refused."""

MOVES_THE_BASE = {
    "pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "loftq": "LoftQ", "lora_ga": "LoRA-GA",
}  # fmt: skip
"""Beginnings of `init_lora_weights` that change the weights of the base when the adapter is put on it."""

CANNOT_BE_LOADED = {
    "pissa_niter": "PEFT repeats the decomposition of the base when it loads the adapter, from other random numbers than in training",
    "corda": "PEFT needs the statistics of data that it started from to load it",
    "loftq": "PEFT quantises the base again when it loads the adapter, and not as the recipe does",
    "lora_ga": "PEFT does not repeat the change of the base when it loads the adapter",
}
"""Those of them that PEFT does not load as they were trained, with the reason."""

CHANGES_THE_BASE = {
    "kasa_config": "KaSA, which removes small singular values from the weights of the base",
    "layer_replication": "layer replication, which adds layers to the base",
}
"""Settings of LoRA that change the base in other ways."""

PLAIN = "Use a LoRA with the default `init_lora_weights`."
MERGE = "Merge it into its base (`trl-ext merge`), and train a new adapter on the result."
MERGE_IN_TRAINING = (
    "Merge it into its base where it was trained (`merge_and_unload` of PEFT), and train a new adapter on the result."
)
CONVERT = (
    "Save it as a plain LoRA where it was trained (`path_initial_model_for_weight_conversion` of PEFT's `save_pretrained`), or "
    "start from its base."
)


@dataclass(frozen=True)
class Use:
    """What a run does with an adapter.

    Attributes:
        is_continued: Training continues it; otherwise it is new.
        needs_reference: Reference log-probabilities are computed.
        shares_base: Completions are sampled: a critic or a reward model may be adapters on the same base.
        is_quantised: The base is loaded in 4 or 8 bits.
    """

    is_continued: bool = False
    needs_reference: bool = True
    shares_base: bool = False
    is_quantised: bool = False


def problem(config: Mapping[str, Any], use: Use) -> str | None:
    """Sentences about an adapter that cannot be trained exactly: what it is, why that is, what to do; `None` if it can.

    Args:
        config: Content of its adapter_config.json, or `to_dict()` of a `PeftConfig`.
        use: What the run does with it.
    """
    if (what := task.of_adapter(config)) is not None:
        return f"It is {what}, which has no language-modelling head to train. " + (
            "Start from the model it was trained on." if use.is_continued else "Use `task_type='CAUSAL_LM'`."
        )
    kind = type_of(config)
    if kind in UNSUPPORTED:
        return f"The adapter is of PEFT's type {kind}. It cannot be trained here: {UNSUPPORTED[kind]}. Use LoRA."
    if kind in PROMPT_LEARNING:
        return _prompt_learning(kind, use)
    if kind not in EXACT:
        return f"The adapter is of PEFT's type {kind}, which trl-ext is not tested with. Use LoRA."
    if config.get("bias") not in (None, "none") and (use.needs_reference or not use.is_continued):
        return (
            f"The adapter trains biases (bias={config['bias']!r}), which stay changed when it is switched off. The reference would "
            f"change with the policy. {MERGE if use.is_continued else 'Use bias=none.'}"
        )
    for name, reason in OTHER_LORA.items():
        if config.get(name):
            return f"The adapter has `{name}`. It cannot be trained here: {reason}. Use a LoRA without it."
    return _changed_base(config, use) or (_on_quantised_base(config, kind) if use.is_quantised else None)


def type_of(config: Mapping[str, Any]) -> str:
    """PEFT's name of the adapter's type, in capitals."""
    kind = config.get("peft_type") or "LORA"
    return str(getattr(kind, "value", kind)).upper()


def moves_the_base(config: Mapping[str, Any]) -> bool:
    """Whether putting the adapter on a base changes the weights of the base."""
    return _start(config, MOVES_THE_BASE) is not None or any(config.get(name) for name in CHANGES_THE_BASE)


def _prompt_learning(kind: str, use: Use) -> str | None:
    if use.is_continued:
        return (
            f"The adapter is of PEFT's type {kind}. PEFT loads such adapters for inference only, so training cannot continue "
            "it. Start from its base with a LoRA."
        )
    if use.shares_base:
        return (
            f"The adapter is of PEFT's type {kind}, a prompt-learning method. Training switches between adapters, which prompt "
            "learning does not support. Use LoRA."
        )
    return None


def _changed_base(config: Mapping[str, Any], use: Use) -> str | None:
    for name, what in CHANGES_THE_BASE.items():
        if config.get(name):
            return (
                f"The adapter uses {what}. With the adapter off, the base is not the model that training starts from and cannot "
                f"be its reference. {MERGE if use.is_continued else 'Use a LoRA without it.'}"
            )
    init = config.get("init_lora_weights")
    if use.is_continued and (start := _start(config, CANNOT_BE_LOADED)):
        remedy = MERGE_IN_TRAINING if start == "loftq" else CONVERT
        return f"The adapter started as {init!r}. {CANNOT_BE_LOADED[start]}. So training would start from another model. {remedy}"
    if _start(config, MOVES_THE_BASE) is None:
        return None
    if use.shares_base:
        return (
            f"The adapter starts as {init!r}, which moves part of the weights of the base into it. Critic, reward adapter and "
            f"reference would share the changed base. {MERGE if use.is_continued else PLAIN}"
        )
    if use.is_continued or not use.needs_reference:
        return None
    return (
        f"The adapter starts as {init!r}, which moves part of the weights of the base into it. With the adapter off, the base is "
        f"not the model that training starts from and cannot be its reference. {PLAIN}"
    )


def _on_quantised_base(config: Mapping[str, Any], kind: str) -> str | None:
    init = config.get("init_lora_weights")
    if kind not in ON_QUANTISED_BASES:
        what = f"is of PEFT's type {kind}"
    elif isinstance(init, str) and init.lower().startswith(FLOAT_INITS):
        what = f"starts as {init!r}"
    elif config.get("velora_config"):
        what = "has `velora_config`"
    else:
        return None
    return (
        f"The adapter {what}, which PEFT does not support on 4-bit or 8-bit layers. Load the base without `load_in_4bit` and "
        "`load_in_8bit`, or use a plain LoRA."
    )


def _start(config: Mapping[str, Any], table: Mapping[str, str]) -> str | None:
    """The beginning in a table that the adapter's `init_lora_weights` has."""
    init = config.get("init_lora_weights")
    return next((each for each in table if isinstance(init, str) and init.lower().startswith(each)), None)
