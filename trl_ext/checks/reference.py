"""Rules about the reference policy and its refresh during training (`sync_ref_model`)."""

from collections.abc import Iterator

from trl_ext.checks.rule import LOSS, problem, samples
from trl_ext.checks.settings import Settings
from trl_ext.losses import MixInfo


@problem("sync_ref_model", applies_to=samples)
def fixed_reference(s: Settings) -> Iterator[str]:
    if s["sync_ref_model"]:
        yield (
            f"{s.where('sync_ref_model')} is true: `trainer: {s.method.name}` keeps its reference fixed. Remove "
            "`sync_ref_model`."
        )


@problem(
    "sync_ref_model", "ref_model_sync_steps", "ref_model_mixup_alpha",
    applies_to=lambda method: method.reads_preferences,
    recipe_only=True,  # code may share a configuration between runs with and without a refresh
)  # fmt: skip
def refresh_is_off(s: Settings) -> Iterator[str]:
    ignored = [key for key in ("ref_model_sync_steps", "ref_model_mixup_alpha") if key in s and s.differs(key)]
    if ignored and not s["sync_ref_model"]:
        yield f"{s.named(*ignored)} would be ignored: add `sync_ref_model: true`."


@problem("sync_ref_model", "precompute_ref_log_probs", applies_to=lambda method: method.reads_preferences)
def refresh_of_precomputed_values(s: Settings) -> Iterator[str]:
    if s["sync_ref_model"] and s["precompute_ref_log_probs"]:
        yield (
            f"{s.named('sync_ref_model', 'precompute_ref_log_probs')} are both true. Reference values computed before the run "
            "are wrong once the reference changes. Keep one of the two settings."
        )


@problem("sync_ref_model", "ref_model_mixup_alpha", applies_to=lambda method: method.reads_preferences)
def refresh_by_nothing(s: Settings) -> Iterator[str]:
    if s["sync_ref_model"] and s["ref_model_mixup_alpha"] == 0:
        yield (
            f"{s.where('ref_model_mixup_alpha')} is 0, which never changes the reference: give a number up to 1 (1 copies the "
            f"policy), or remove {s.where('sync_ref_model')}."
        )


@problem(
    "sync_ref_model",
    "use_peft",
    "use_dora",
    "lora_modules_to_save",
    applies_to=lambda method: method.reads_preferences,
)
def refresh_of_plain_lora(s: Settings) -> Iterator[str]:
    """A trainer judges the adapter itself, which need not come from these settings (`trl_ext.reference.moving`)."""
    for key in ("use_dora", "lora_modules_to_save"):
        if s["sync_ref_model"] and s["use_peft"] and s[key]:
            yield (
                f"{s.where('sync_ref_model')} averages plain LoRA adapters, and {s.where(key)} adds other weights to the "
                "adapter. Keep one of the two settings."
            )


@problem("sync_ref_model", LOSS, applies_to=lambda method: method.reads_preferences)
def refresh_without_reference(s: Settings) -> Iterator[str]:
    if s["sync_ref_model"] and not s.loss.needs_reference:
        yield (
            f"{s.where('sync_ref_model')} updates the reference, and the loss {s.loss.name} does not read one. Remove the "
            "setting, or choose a loss that reads a reference (a recipe can keep it for other losses under `variants`)."
        )


@problem("precompute_ref_log_probs", "dataset_streaming", "datasets", "streaming", "use_peft", LOSS)
def precomputed_values_of_a_stream(s: Settings) -> Iterator[str]:
    """With an adapter, the reference is at hand when a row is read."""
    key = "streaming" if s["datasets"] else "dataset_streaming"
    if s["precompute_ref_log_probs"] and s[key] and not s["use_peft"] and s.loss.needs_reference:
        yield (
            f"{s.where('precompute_ref_log_probs')} reads all rows before training, because no reference model is kept without an "
            f"adapter, and {s.where(key)} reads them during training. Remove one of the two settings, or train an adapter "
            "(`use_peft: true`)."
        )


@problem("ld_alpha", LOSS)
def damped_log_ratios(s: Settings) -> Iterator[str]:
    parts = s.loss.components if isinstance(s.loss, MixInfo) else (s.loss,)
    without = [part.name for part in parts if not part.needs_reference]
    if s["ld_alpha"] is not None and without:
        yield (
            f"{s.where('ld_alpha')} scales down the log-ratios of long completions (LD-DPO), and {', '.join(without)} reads no "
            "reference. Remove `ld_alpha`, or choose losses that read a reference."
        )


@problem("sync_ref_model", "reference", applies_to=lambda method: method.reads_preferences)
def refresh_of_the_base(s: Settings) -> Iterator[str]:
    if s["sync_ref_model"] and s["reference"] == "base":
        yield (
            f"{s.where('reference')} is base, which never changes, and {s.where('sync_ref_model')} updates the reference. Remove one "
            "of the two settings."
        )


@problem("reference", LOSS, applies_to=lambda method: method.reads_preferences)
def unread_reference(s: Settings) -> Iterator[str]:
    if s["reference"] == "base" and not s.loss.needs_reference:
        yield f"{s.where('reference')} is base, and the loss {s.loss.name} reads no reference. Remove it."
