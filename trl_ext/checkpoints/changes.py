"""Compare the run that wrote a checkpoint with the run that resumes it, and judge each difference.

Runs are compared by what `trl_ext.trainers.common.provenance` recorded. A setting that is not known to leave the result
unchanged counts as one that changes it.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.rl import advantages
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError

HARMLESS_PREFIXES = (
    "logging_", "log_", "save_", "eval_", "hub_", "trackio_", "ddp_", "do_", "gradient_checkpointing",
    "activation_", "precompute_ref_", "torch_compile", "vllm_server_",
)  # fmt: skip

HARMLESS = {
    "output_dir", "run_name", "project", "report_to", "debug", "skip_memory_metrics", "push_to_hub",
    "per_device_eval_batch_size", "prediction_loss_only", "include_for_metrics", "batch_eval_metrics",
    "bf16_full_eval", "fp16_full_eval", "num_generations_eval", "load_best_model_at_end", "metric_for_best_model",
    "greater_is_better", "enable_jit_checkpoint", "restore_callback_states_from_checkpoint",
    "full_determinism", "include_num_input_tokens_seen",
    "skip_nonfinite_steps",
    "row_tokens", "reference_cache", "fused_kernels", "sampling_weights", "auto_find_batch_size", "use_cache", "use_liger_kernel", "liger_kernel_config", "tf32", "use_cpu",
    "torch_empty_cache_steps", "trust_remote_code", "num_completions_to_print", "accelerator_config",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "dataset_num_proc", "vllm_group_port", "vllm_gpu_memory_utilization",
}  # fmt: skip
"""Settings that change only speed, memory, logs and saved files, apart from rounding."""

UNSAID = {"disable_tqdm", "resume_changed", "resume_from_checkpoint", "local_rank"}
"""Settings that depend on how and where a run is started; their changes are not reported."""

BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")
ROLLOUTS = ("steps_per_generation", "num_iterations", "num_generations", "generation_batch_size")
FREE_OF_SHAPE = {"lora_alpha", "lora_dropout", "use_rslora", "init_lora_weights"}
"""Settings of an adapter that do not change the shape of its weights."""

ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau")
"""Learning-rate schedules that do not depend on the length of the run."""


class Change(NamedTuple):
    """One difference. `why` gives the reason for the verdict where the name does not."""

    name: str
    was: Any
    now: Any
    why: str = ""

    def __str__(self) -> str:
        return f"`{self.name}` {_shown(self.was)} → {_shown(self.now)}{self.why and f' ({self.why})'}"


class Changes(NamedTuple):
    """All differences.

    Attributes:
        harmless: The result stays the same.
        harmful: The result changes.
        impossible: The saved state does not fit.
    """

    harmless: list[Change]
    harmful: list[Change]
    impossible: list[Change]


def judge(checkpoint: Path, was: dict[str, Any], now: dict[str, Any], *, is_allowed: bool) -> str:
    """Return a note on the differences between a checkpoint's run and this one; empty if there are none.

    Args:
        checkpoint: For the message.
        was: Its manifest.
        now: This run, or the part of it that is known yet.
        is_allowed: Whether `resume_changed` allows harmful differences.

    Raises:
        UserError: There are harmful differences that are not allowed, or the saved state does not fit.
    """
    differences = compare(was, now)
    matter = ", ".join(map(str, [*differences.impossible, *differences.harmful]))
    if differences.impossible:
        fixed = ", ".join(f"`{change.name}`" for change in differences.impossible)
        raise UserError(
            f"{checkpoint} was written with other settings: {matter}. Resume with the original settings, or start a new run: "
            f"the saved state does not fit another {fixed}."
        )
    if differences.harmful and not is_allowed:
        raise UserError(
            f"{checkpoint} was written with other settings: {matter}. Resume with the original settings, or add "
            "`resume_changed: true` to continue with the new ones."
        )
    notes = []
    if differences.harmful:
        notes.append(f"resuming {checkpoint.name} with changed settings (`resume_changed`): {matter}")
    if differences.harmless:
        harmless = ", ".join(map(str, differences.harmless))
        notes.append(f"changed since {checkpoint.name}, with no effect on the result beyond rounding: {harmless}")
    return "\n".join(notes)


def compare(was: dict[str, Any], now: dict[str, Any]) -> Changes:
    """Sort what differs between two runs, as `provenance.of_run` describes them.

    Only settings that both know are compared: another version may have other settings.
    """
    before, after = was["settings"], now["settings"]
    found = Changes([], [], [])
    for name in before:
        if (
            name in after
            and name not in UNSAID
            and before[name] != after[name]
            and not (name == "num_train_epochs" and _steps(before, after))
        ):
            kind, why = _verdict(name, before, after)
            getattr(found, kind).append(Change(name, before[name], after[name], why))
    if "model" in now:  # else the weights are not loaded yet
        _compare_adapters(was["adapter"], now["adapter"], found)
        _compare_models(was["model"], now["model"], found)
        _compare_data(was["data"], now["data"], found)
        versions = was["versions"].items()
        found.harmless.extend(Change(n, v, now["versions"][n]) for n, v in versions if v != now["versions"].get(n, v))
    return found


def _verdict(name: str, before: dict, after: dict) -> tuple[str, str]:
    if name in HARMLESS or name.startswith(HARMLESS_PREFIXES):
        return "harmless", ""
    samples = "steps_per_generation" in before
    if samples and name in (*ROLLOUTS, *BATCH):
        return "impossible", "the saved rollout was cut for this value"
    if (
        name == "packing" and "row_tokens" in before
    ):  # rows are a memory detail; in supervised tuning they are the batch
        return "harmless", ""
    if name in BATCH and _product(before) == _product(after):
        return "harmless", "the same number of examples per step"
    if name == "optim":
        is_same = _optimizer(before[name]) == _optimizer(after[name])
        return (
            ("harmless", "the same optimizer state")
            if is_same
            else ("impossible", "the saved state is of another optimizer")
        )
    if name == "advantage":
        was, now = (_has_critic(settings[name]) for settings in (before, after))
        if was != now:
            return "impossible", f"the checkpoint holds {'a' if was else 'no'} critic"
    if name == "sync_ref_model":
        was_moving = before[name]
        return "impossible", f"the checkpoint holds {'a' if was_moving else 'no'} moving reference"
    if name in ("max_steps", "num_train_epochs"):
        return _length(before, after)
    return "harmful", ""


def _has_critic(advantage: str) -> bool:
    return advantage in advantages.available() and advantages.describe(advantage).needs_critic


def _steps(before: dict, after: dict) -> bool:
    """Whether the length of both runs is set by `max_steps`, so that their epochs do not matter."""
    return before["max_steps"] > 0 and after["max_steps"] > 0


def _length(before: dict, after: dict) -> tuple[str, str]:
    schedule = before["lr_scheduler_type"]
    # A warmup below 1 is a share of the whole run.
    if schedule in ENDLESS and not any(0 < settings["warmup_steps"] < 1 for settings in (before, after)):
        return "harmless", ""
    return "harmful", f"the {schedule} learning-rate schedule spans the whole run, so the rate would jump"


def _product(settings: dict) -> int:
    return math.prod(settings[name] for name in BATCH)


def _optimizer(name: str) -> str:
    """An optimizer's name without the parts its state does not depend on: paging, fusing, prefix."""
    return name.replace("paged_", "").replace("bnb_", "").replace("_fused", "")


def _compare_adapters(was: dict | None, now: dict | None, found: Changes) -> None:
    if (was is None) != (now is None):
        found.impossible.append(Change("use_peft", was is not None, now is not None))
    elif was is not None:
        for name in was:
            if name in now and was[name] != now[name]:
                kind = found.harmful if name in FREE_OF_SHAPE else found.impossible
                kind.append(Change(name, was[name], now[name]))


def _compare_models(before: dict, after: dict, found: Changes) -> None:
    names = ("model_name_or_path", "weights", "starts_from")
    changed = [n for n in before if n in after and n not in names and before[n] != after[n]]
    found.harmful.extend(Change(name, before[name], after[name]) for name in changed)
    if before.get("starts_from") != after.get("starts_from"):
        found.harmful.append(Change("the adapter it starts from", before.get("starts_from"), after.get("starts_from")))
    if before.get("weights") == after.get("weights"):
        return  # a moved folder is the same model
    name, other = before["model_name_or_path"], after["model_name_or_path"]
    if name != other:
        found.harmful.append(Change("model_name_or_path", name, other))
    elif not changed:  # another quantisation or dtype stores the same weights as other bytes
        found.harmful.append(Change("model_name_or_path", name, other, "its weights differ"))


def _compare_data(was: dict | None, now: dict | None, found: Changes) -> None:
    if not was or not now or was["digest"] == now["digest"]:
        return
    why = "other examples, or other tokens" if was["examples"] == now["examples"] else ""
    before, after = (count(data["examples"], "examples") for data in (was, now))
    found.harmful.append(Change("training data", before, after, why))


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return "none" if value is None else str(value)
