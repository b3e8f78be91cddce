"""Notes on settings that are read only beside another one, where that one is off.

One table says which setting each needs. `docs/compatibility.md` judges these settings with the other one on.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from trl_ext.checks import sharding
from trl_ext.checks.rule import note
from trl_ext.checks.settings import Settings
from trl_ext.model_files import quantised


class Switch(NamedTuple):
    """Settings, and what they need.

    Attributes:
        keys: The settings; one that ends in `_` stands for all that begin so.
        needs: What is missing, for a sentence that ends with "without …".
        reads: The settings that `is_on` reads.
        is_on: Whether the settings are read.
        example: Settings that turn them on.
        also: Settings that `is_on` reads where they exist: other spellings of those in `reads`.
    """

    keys: tuple[str, ...]
    needs: str
    reads: tuple[str, ...]
    is_on: Callable[[Settings], Any]
    example: dict[str, Any]
    also: tuple[str, ...] = ()


OTHERWISE_READ = "vllm_importance_sampling_"
"""Beginning of settings that merged weights read, too (`trl_ext.checks.sampling_weights`)."""


def _switch(key: str, *keys: str, others: tuple[str, ...] = ()) -> Switch:
    """Settings that need `key: true`; `others` turn them on too."""
    names = (key, *others)
    return Switch(keys, f"`{key}: true`", (key,), lambda s: any(s[name] for name in names), {key: True}, others)


def _tracks(*names: str) -> Callable[[Settings], bool]:
    """Whether the run reports to one of these trackers; without names, to any."""

    def is_on(s: Settings) -> bool:
        given = s["report_to"] if isinstance(s["report_to"], list) else [s["report_to"]]
        there = {str(name) for name in given if name} - {"none"}
        return bool(there & {*names, "all"}) if names else bool(there)

    return is_on


def _evaluates(s: Settings) -> bool:
    return s["eval_strategy"] not in (None, "no") or bool(s["eval_on_start"])


def _is_in_4_bits(s: Settings) -> bool:
    stored = quantised.of_model(s["model_name_or_path"], s["model_revision"])
    return bool(s["load_in_4bit"]) or (stored is not None and stored.is_bnb_4bit)


SWITCHES = (
    _switch(
        "push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision"
    ),
    Switch(
        ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage", "bnb_4bit_compute_dtype"),
        "`load_in_4bit: true`", ("load_in_4bit", "model_name_or_path", "model_revision"), _is_in_4_bits, {"load_in_4bit": True},
    ),
    _switch("use_vllm", "vllm_"),
    _switch("log_completions", "log_unique_prompts", "num_completions_to_print"),
    _switch(
        "use_transformers_continuous_batching", "transformers_continuous_batching_config", others=("use_transformers_paged",)
    ),
    _switch("gradient_checkpointing", "gradient_checkpointing_kwargs", others=("activation_checkpointing",)),
    _switch("activation_checkpointing", "activation_checkpointing_kwargs", others=("gradient_checkpointing",)),
    _switch("use_liger_kernel", "liger_kernel_config"),
    _switch("precompute_ref_log_probs", "precompute_ref_batch_size"),
    _switch("packing", "packing_strategy"),
    Switch(("fsdp_config",), "`fsdp`", ("fsdp",), lambda s: sharding.is_on(s["fsdp"]), {"fsdp": "full_shard"}),
    Switch(
        ("eval_steps", "eval_delay", "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "eval_packing",
         "bf16_full_eval", "fp16_full_eval", "num_generations_eval"),
        "`eval_strategy`", ("eval_strategy", "eval_on_start"), _evaluates, {"eval_strategy": "steps"},
    ),
    Switch(
        ("save_total_limit", "save_only_model", "save_steps"), "checkpoints (`save_strategy` is no)", ("save_strategy",),
        lambda s: s["save_strategy"] != "no", {"save_strategy": "steps"},
    ),
    Switch(
        ("greater_is_better",), "`metric_for_best_model` or `load_best_model_at_end`",
        ("metric_for_best_model", "load_best_model_at_end"),
        lambda s: s["metric_for_best_model"] or s["load_best_model_at_end"],
        {"eval_strategy": "steps", "eval_steps": 10, "save_steps": 10, "load_best_model_at_end": True},
    ),
    Switch(
        ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), "`report_to: trackio`", ("report_to",),
        _tracks("trackio"), {"report_to": "trackio"},
    ),
    Switch(("run_name",), "a tracker in `report_to`", ("report_to",), _tracks(), {"report_to": "wandb"}),
)  # fmt: skip


def without_its_switch(key: str, s: Settings, *, switch: Switch) -> Iterator[str]:
    if switch.is_on(s):
        return
    for name in s:
        if name.startswith(OTHERWISE_READ):
            continue
        if (name == key or (key.endswith("_") and name.startswith(key))) and s.differs(name):
            yield f"{s.where(name)} has no effect without {switch.needs}."


for _one in SWITCHES:
    for _key in _one.keys:
        _read = _one.reads if _key.endswith("_") else (*_one.reads, _key)
        note(*_read, also=_one.also)(partial(without_its_switch, _key, switch=_one))


STRATEGIES = {"eval_steps": "eval_strategy", "save_steps": "save_strategy", "logging_steps": "logging_strategy"}
"""Numbers of steps, and the strategy that has to be `steps`."""


def without_steps(key: str, strategy: str, s: Settings) -> Iterator[str]:
    """Without any evaluation or checkpoint, the notes above say so."""
    if s.differs(key) and s[strategy] not in (None, "steps", *(() if key == "logging_steps" else ("no",))):
        yield f"{s.where(key)} has no effect with {s.where(strategy)} {s[strategy]}: it counts the steps of `{strategy}: steps`."


for _key, _strategy in STRATEGIES.items():
    note(_key, _strategy)(partial(without_steps, _key, _strategy))
