"""Rules about settings that a method inherits from its TRL parent and does not read.

Settings that would only be ignored are noted; a recipe that trains another method may share them.
"""

from collections.abc import Iterator
from functools import partial

from trl_ext.checks.advantage import cap_below_one, declared
from trl_ext.checks.rule import is_policy_gradient, note, problem, samples, samples_pairs
from trl_ext.checks.settings import Settings
from trl_ext.support.messages import joined

WITHOUT_EFFECT = {
    "data_seed": "the order of prompts follows `seed`",
    "train_sampling_strategy": "`shuffle_dataset` decides whether prompts are shuffled",
    "length_column_name": "prompts are not grouped by length",
    "include_num_input_tokens_seen": "prompts and completions are always counted, as `num_tokens`",
    "include_for_metrics": "evaluation scores sampled completions and predicts nothing",
    "batch_eval_metrics": "evaluation scores sampled completions and predicts nothing",
    "label_names": "there are no labels",
    "ds3_gather_for_generation": "DeepSpeed is not supported here",
    "log_multimodal": "prompts are text",
    "ref_model_sync_steps": "the reference is fixed",
    "ref_model_mixup_alpha": "the reference is fixed",
    "ddp_find_unused_parameters": "gradients are averaged over processes once per step, without DDP",
    "ddp_static_graph": "gradients are averaged over processes once per step, without DDP",
    "ddp_bucket_cap_mb": "gradients are averaged over processes once per step, without DDP",
    "ddp_broadcast_buffers": "gradients are averaged over processes once per step, without DDP",
}
"""Settings that trainers which sample completions do not read, and why."""

OF_DDP = ("ddp_find_unused_parameters", "ddp_static_graph", "ddp_bucket_cap_mb", "ddp_broadcast_buffers")
"""Settings of the wrapper that a step over rows does not run."""

OF_COMPUTE_METRICS = ("include_for_metrics", "batch_eval_metrics")

_PREDICTIONS = "predictions are made and kept only for `compute_metrics`, which only a script can give"
IN_A_RECIPE = {
    "eval_accumulation_steps": _PREDICTIONS,
    "eval_do_concat_batches": _PREDICTIONS,
    "prediction_loss_only": _PREDICTIONS,
    "do_train": "`trl-ext run` always trains",
    "do_predict": "`trl-ext run` makes no predictions after training; `trl-ext eval` and `trl-ext chat` do",
    "local_rank": "each process is told its number by the launcher, in the variable LOCAL_RANK",
}
"""Settings that scripts alone read, and why a run of a recipe does not."""

CLIPPING = ("epsilon", "epsilon_high", "delta", "cliprange_value")

OF_A_POLICY_GRADIENT = ("epsilon", "epsilon_high", "normalize_advantages")
"""Settings of TRL's configuration that no loss on pairs reads."""


def without_effect(key: str, s: Settings) -> Iterator[str]:
    if s.differs(key):
        where = "with a loss on sampled pairs" if s.method.has_loss else f"in {s.method.title}"
        yield f"{s.where(key)} has no effect {where}: {WITHOUT_EFFECT[key]}."


def in_a_recipe(key: str, s: Settings) -> Iterator[str]:
    if s.differs(key):
        yield f"{s.where(key)} has no effect: {IN_A_RECIPE[key]}."


def policy_gradient(key: str, s: Settings) -> Iterator[str]:
    if key in s and s.differs(key):
        yield f"{s.where(key)} is {s[key]}. It shapes a policy gradient, and no loss on pairs reads it: remove it."


def without_ddp(key: str, s: Settings) -> Iterator[str]:
    if s.differs(key):
        yield (
            f"{s.where(key)} has no effect, except for images: gradients are summed over processes once per step, without DDP."
        )


def without_compute_metrics(key: str, s: Settings) -> Iterator[str]:
    if s.differs(key):
        yield f"{s.where(key)} has no effect in a recipe: it is for `compute_metrics`, which only a script can give."


for _key in WITHOUT_EFFECT:
    note(_key, applies_to=samples)(partial(without_effect, _key))
for _key in OF_DDP:
    note(_key, applies_to=lambda method: method.cuts_rows)(partial(without_ddp, _key))
for _key in OF_COMPUTE_METRICS:
    note(_key, applies_to=lambda method: not method.samples_completions, recipe_only=True)(
        partial(without_compute_metrics, _key)
    )
for _key in IN_A_RECIPE:
    note(_key, recipe_only=True)(partial(in_a_recipe, _key))
for _key in OF_A_POLICY_GRADIENT:
    problem(_key, applies_to=samples_pairs)(partial(policy_gradient, _key))


@note("length_column_name", "train_sampling_strategy", applies_to=lambda method: not method.samples_completions)
def length_column(s: Settings) -> Iterator[str]:
    if s.differs("length_column_name") and s["train_sampling_strategy"] != "group_by_length":
        why = (
            "examples are not grouped by length"
            if s.method.cuts_rows
            else "`train_sampling_strategy` is not group_by_length"
        )
        yield f"{s.where('length_column_name')} has no effect: {why}."


@note("label_names", applies_to=lambda method: method.cuts_rows)
def names_of_labels(s: Settings) -> Iterator[str]:
    if s.differs("label_names"):
        yield f"{s.where('label_names')} has no effect: preferences have no labels for the model."


@note(
    *CLIPPING, "num_iterations", "gradient_accumulation_steps", "steps_per_generation", "generation_batch_size", "advantage",
    applies_to=is_policy_gradient, also=("policy_objective", "loss_type"),
)  # fmt: skip
def clipping(s: Settings) -> Iterator[str]:
    """Clipping acts on rollouts that are older than the policy they train, and there are none."""
    accumulated = s["gradient_accumulation_steps"]
    steps = s["steps_per_generation"] or (None if s["generation_batch_size"] else accumulated)
    info = declared(s)
    unread = () if info is None or info.needs_critic else ("cliprange_value",)  # which another note says
    unread += cap_below_one(s)
    changed = [s.where(key) for key in CLIPPING if s.differs(key) and key not in unread]
    if steps is None or steps > accumulated or s["num_iterations"] != 1 or not changed:
        return
    have = "has" if len(changed) == 1 else "have"
    yield (
        f"{joined(changed)} {have} no effect: each rollout is used for one step, in which policy and values are still those "
        "that sampled it. Set `num_iterations` to 2 or more to use each rollout again."
    )
