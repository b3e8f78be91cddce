"""Rules about the weights that completions are sampled from, and about the correction for their rounding."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from trl_ext.checks.rule import is_policy_gradient, note, problem, samples, samples_pairs
from trl_ext.checks.settings import Settings
from trl_ext.model_files import adapter

WEIGHTS = ("auto", "adapter", "merged")
MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
CLIP_MAX, CLIP_MIN = "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"
CORRECTION, MODE = "vllm_importance_sampling_correction", "vllm_importance_sampling_mode"

NOT_PLAIN = {
    "use_dora": "DoRA",
    "lora_target_parameters": "LoRA on `target_parameters`",
    "lora_modules_to_save": "modules that are trained whole",
}
"""Settings of a new adapter that make it more than a product that is added to linear layers."""

NOT_PLAIN_IN_A_FOLDER = (
    "use_dora", "target_parameters", "modules_to_save", "trainable_token_indices", "lora_bias", "use_qalora",
)  # fmt: skip
"""The same in the configuration of an adapter; as `trl_ext.trainers.rollout.merged_copy`."""

INSTEAD = "Set `sampling_weights: adapter`, or leave it at auto."


def known(key: str, allowed: tuple[str, ...], s: Settings) -> Iterator[str]:
    """Of a configuration; a recipe's values are compared with the choices of the setting."""
    if not s.is_recipe and s.differs(key) and s[key] not in allowed:
        yield f"{s.where(key)} is {s[key]!r}. Choose from {', '.join(allowed)}."


problem("sampling_weights")(partial(known, "sampling_weights", WEIGHTS))
problem(MODE)(partial(known, MODE, MODES))


def merged_plain(key: str, s: Settings) -> Iterator[str]:
    is_new = not adapter.is_continued(s["model_name_or_path"])
    if s["sampling_weights"] == "merged" and s[key] and is_new:
        yield f"{_merged(s)} {s.where(key)} gives it {NOT_PLAIN[key]}. {INSTEAD}"


for _key in NOT_PLAIN:
    problem("sampling_weights", "model_name_or_path", _key, applies_to=samples)(partial(merged_plain, _key))


@problem("sampling_weights", "model_name_or_path", applies_to=samples, recipe_only=True)
def merged_continued(s: Settings) -> Iterator[str]:
    name = s["model_name_or_path"]
    if s["sampling_weights"] != "merged" or not isinstance(name, str) or not adapter.is_continued(name):
        return
    content = adapter.config(Path(name).expanduser())
    if content and (content.get("peft_type") != "LORA" or any(map(content.get, NOT_PLAIN_IN_A_FOLDER))):
        yield f"{_merged(s)} The adapter in {name} is {adapter.in_words(content)}. {INSTEAD}"


@problem("sampling_weights", "disable_dropout", applies_to=samples)
def merged_without_dropout(s: Settings) -> Iterator[str]:
    if s["sampling_weights"] == "merged" and not s["disable_dropout"]:
        yield (
            f"{s.where('sampling_weights')} is merged, and {s.where('disable_dropout')} is false. Merged weights have no dropout, so "
            f"the policy that is trained would not be the one that sampled. Set `disable_dropout: true`. {INSTEAD}"
        )


@problem(CORRECTION, CLIP_MIN, CLIP_MAX, MODE, applies_to=is_policy_gradient)
def bounds(s: Settings) -> Iterator[str]:
    low, high = s[CLIP_MIN], s[CLIP_MAX]
    if not s[CORRECTION]:
        return
    if low is not None and high is not None and low >= high:
        yield f"{s.where(CLIP_MIN)} is {low} and {s.where(CLIP_MAX)} is {high}. The lower bound must be below the upper one."
    if low is None and high is None and str(s[MODE]).endswith("_mask"):
        yield f"{s.where(MODE)} is {s[MODE]}, and without bounds it masks nothing. Set `{CLIP_MAX}`."


@note("sampling_weights", "use_vllm", applies_to=samples)
def weights_of_vllm(s: Settings) -> Iterator[str]:
    if s["use_vllm"] and s["sampling_weights"] != "auto":
        yield f"{s.where('sampling_weights')} has no effect with `use_vllm: true`: vLLM is sent merged weights."


def without_correction(key: str, s: Settings) -> Iterator[str]:
    if s.differs(key) and (s["sampling_weights"] == "adapter" and not s["use_vllm"]):
        yield f"{s.where(key)} has no effect with `sampling_weights: adapter`: the policy itself samples."
    elif key != CORRECTION and s.differs(key) and not s[CORRECTION]:
        yield f"{s.where(key)} has no effect with {s.where(CORRECTION)} false."


def not_of_pairs(key: str, s: Settings) -> Iterator[str]:
    if s.differs(key):
        yield (
            f"{s.where(key)} has no effect with a loss on sampled pairs: such a loss compares completions whoever sampled them, "
            "so nothing is weighted."
        )


for _key in (CORRECTION, MODE, CLIP_MAX, CLIP_MIN):
    note(_key, CORRECTION, "sampling_weights", "use_vllm", applies_to=is_policy_gradient)(
        partial(without_correction, _key)
    )
    note(_key, applies_to=samples_pairs)(partial(not_of_pairs, _key))


def _merged(s: Settings) -> str:
    return f"{s.where('sampling_weights')} is merged, and only plain LoRA can be merged."
