"""Rules about how steps are run: several GPUs, compilation, batch sizes, environment variables."""

from collections.abc import Iterator
from typing import Any

from trl_ext.checks import sharding
from trl_ext.checks.rule import note, problem, samples
from trl_ext.checks.settings import Settings
from trl_ext.methods import Method

SEVERAL_GPUS = (
    "training steps run on the model itself, not on the wrapper that shards it. Use plain `accelerate launch --multi_gpu` for "
    "several GPUs: each then holds a full copy of the base model."
)
"""Why DeepSpeed is refused, and what to do instead."""

SHARDING = {"deepspeed": f"DeepSpeed counts accumulation steps itself, and {SEVERAL_GPUS}"}


def runs_the_model_itself(method: Method) -> bool:
    """Whether its steps run the model past the wrappers that transformers puts around it."""
    return method.cuts_rows or method.samples_completions


@problem("deepspeed")
def deepspeed(s: Settings) -> Iterator[str]:
    """A launcher can turn sharding on too: see `launched_sharded`."""
    for key, reason in SHARDING.items():
        if s[key]:
            yield f"{s.where(key)} is not supported: {reason}"


def launched_sharded(args: Any) -> str | None:
    """A sentence if a finished configuration uses DeepSpeed, as a launcher turns it on by environment variables."""
    if args.deepspeed_plugin is not None:
        return f"DeepSpeed is on, which is not supported: {SHARDING['deepspeed']}"
    return None


def refused_with_images(args: Any, loss: Any) -> str | None:
    """A sentence if a configuration and its loss cannot train on images, which only the data shows."""
    if args.precompute_ref_log_probs:
        return "`precompute_ref_log_probs` is not supported for vision datasets: images are only read during training. Remove it."
    if "z_ref" in loss.inputs and args.per_device_train_batch_size < 2:
        return (
            f"`per_device_train_batch_size` is {args.per_device_train_batch_size}. The loss {loss.name!r} pairs each image with the "
            "completion of another example of its micro-batch. Give at least 2, or use `loss: apo_zero_unpaired`."
        )
    if args.humanline:
        return (
            "`humanline` is not supported for vision datasets, whose examples are scored by TRL's collator. Remove it."
        )
    if loss.columns:
        return (
            f"The loss {loss.name!r} reads the column {' and '.join(loss.columns)}, which is not supported for vision datasets. Choose "
            "another loss."
        )
    if loss.initial_state:
        return (
            f"The loss {loss.name!r} keeps running values from step to step, which is not supported for vision datasets. Choose "
            "another loss, such as `bco_pair` in place of `bco`."
        )
    return None


@problem("auto_find_batch_size", applies_to=lambda method: not runs_the_model_itself(method))
def automatic_batch(s: Settings) -> Iterator[str]:
    if s["auto_find_batch_size"]:
        yield (
            f"{s.where('auto_find_batch_size')} is not supported: after running out of memory it restarts at step 0 with another "
            "effective batch size. Remove it, and lower `per_device_train_batch_size` if memory runs out."
        )


@note("auto_find_batch_size", "fsdp", applies_to=runs_the_model_itself)
def batch_that_always_fits(s: Settings) -> Iterator[str]:
    """Trainers turn it off while they train, so that transformers restarts nothing."""
    if s["auto_find_batch_size"] and sharding.is_on(s["fsdp"]):
        yield (
            f"{s.where('auto_find_batch_size')} has no effect: with FSDP a step that does not fit in memory ends the run. Lower "
            "`row_tokens` if it does."
        )
    elif s["auto_find_batch_size"]:
        images = ", except for images" if s.method.cuts_rows else ""
        yield (
            f"{s.where('auto_find_batch_size')} has no effect{images}: a step that does not fit in memory is repeated with shorter "
            "rows anyway, and its examples stay the same."
        )


@problem("torch_compile", "torch_compile_backend", "torch_compile_mode", applies_to=runs_the_model_itself)
def compilation(s: Settings) -> Iterator[str]:
    """The last two turn on the first."""
    for key in ("torch_compile", "torch_compile_backend", "torch_compile_mode"):
        if s[key]:
            yield (
                f"{s.where(key)} would have no effect: training steps run on the model itself, not on the compiled wrapper. "
                "Remove it."
            )
            return


@problem("parallelism_config", applies_to=runs_the_model_itself)
def split_model(s: Settings) -> Iterator[str]:
    """Code gives an object of accelerate's. A recipe cannot give one."""
    sizes = {key: getattr(s["parallelism_config"], key, 1) for key in ("tp_size", "cp_size", "sp_size")}
    if split := [f"{key} {size}" for key, size in sizes.items() if size > 1]:
        yield (
            f"{s.where('parallelism_config')} has {', '.join(split)}, which is not supported: a step runs whole sequences on a whole "
            "model. Remove it."
        )


@problem("label_smoothing_factor")
def label_smoothing(s: Settings) -> Iterator[str]:
    if s["label_smoothing_factor"]:
        instead = "Some losses read `label_smoothing`: use that instead." if s.method.has_loss else "Remove it."
        yield f"{s.where('label_smoothing_factor')} would have no effect: no loss here reads it. {instead}"


@problem("neftune_noise_alpha", applies_to=samples)
def embedding_noise(s: Settings) -> Iterator[str]:
    if s["neftune_noise_alpha"]:
        effect = "reference and policy would differ" if s.method.has_loss else "importance ratios would differ from 1"
        yield (
            f"{s.where('neftune_noise_alpha')} adds noise to the embeddings in some forward passes and not in others, so "
            f"{effect} by that noise. Remove it."
        )


@problem("neftune_noise_alpha", "packing", "padding_free", applies_to=lambda method: method.reads == "demonstrations")
def embedding_noise_of_packed_rows(s: Settings) -> Iterator[str]:
    """transformers scales the noise by the length of the row; losses on preferences scale it by each sequence's length."""
    key = "packing" if s["packing"] else "padding_free"
    if s["neftune_noise_alpha"] and s[key]:
        yield (
            f"{s.where('neftune_noise_alpha')} adds noise that shrinks with the length of a row, and {s.where(key)} joins several "
            "sequences in a row: the noise would be too small. Remove one of the two settings."
        )


@problem("env")
def environment(s: Settings) -> Iterator[str]:
    values = s["env"]
    if values is not None and (
        not isinstance(values, dict) or any(isinstance(value, (dict, list)) for value in values.values())
    ):
        yield f"{s.where('env')} is not a mapping of names to values: write `env: {{NAME: value}}`."
