"""No field of TRL's GRPO and RLOO configurations is ignored: each means what it means there, or is refused by name."""

import dataclasses

import pytest
import trl
import yaml

from tests.recipe.helpers import BASE, load_from, problems
from trl_ext import GRPOConfig, RLOOConfig
from trl_ext.checks.grpo import NOT_REPRODUCED
from trl_ext.rl.grpo_losses import LOSS_TYPES

CPU = {"output_dir": "unused", "use_cpu": True, "bf16": False, "report_to": "none"}
RECIPE = f"trainer: grpo\n{BASE}use_peft: true\nreward_funcs: [sentiment]\n"

OTHER_DEFAULTS = {
    "disable_dropout",
    "logging_nan_inf_filter",
    "gradient_checkpointing",
    "vllm_importance_sampling_mode",
}
"""Settings with another default than TRL's, which docs/compatibility.md lists."""


def defaults(config: type) -> dict:
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(config)
    }


@pytest.mark.parametrize(("theirs", "ours"), [(trl.GRPOConfig, GRPOConfig), (trl.RLOOConfig, RLOOConfig)])
def test_every_field_of_trl_is_a_field_here_with_its_default(theirs, ours):
    there, here = defaults(theirs), defaults(ours)
    assert set(there) <= set(here)
    assert {key for key in there if there[key] != here[key]} <= OTHER_DEFAULTS


@pytest.mark.parametrize(("theirs", "ours"), [(trl.GRPOConfig, GRPOConfig), (trl.RLOOConfig, RLOOConfig)])
def test_a_list_of_all_of_trls_defaults_is_accepted(theirs, ours):
    given = {field.name: defaults(theirs)[field.name] for field in dataclasses.fields(theirs) if field.init}
    made = ours(**{**given, **CPU})
    assert made.beta == made.kl_coef == defaults(theirs)["beta"]
    copied = dataclasses.replace(made)
    assert (copied.kl_coef, copied.generation_batch_size) == (made.kl_coef, made.generation_batch_size)


OTHERWISE = {
    "top_entropy_quantile": 0.2, "entropy_coef": 0.01, "use_adaptive_entropy": True, "entropy_coef_min": 0.1,
    "entropy_coef_max": 2.0, "entropy_coef_delta": 0.01, "entropy_target": 1.0, "off_policy_mask_threshold": 0.5,
    "max_tool_calling_iterations": 3, "cast_lm_head_to_fp32": True, "log_completions_hub_repo": "me/completions",
}  # fmt: skip


@pytest.mark.parametrize("key", NOT_REPRODUCED)
def test_what_is_not_reproduced_is_refused_by_name(key, tmp_path):
    text = yaml.safe_dump({key: OTHERWISE[key]})
    (sentence,) = problems(tmp_path, text, RECIPE)
    assert sentence.startswith(f"`{key}` (line 6) is ") and "which trl-ext does not reproduce: " in sentence
    with pytest.raises(ValueError, match=f"`{key}` is .*which trl-ext does not reproduce"):
        GRPOConfig(**CPU, **{key: OTHERWISE[key]})


def test_a_loss_type_chooses_surrogate_and_aggregation():
    assert set(LOSS_TYPES) == set(GRPOConfig.__dataclass_fields__["loss_type"].metadata["choices"])
    assert all(name in trl.GRPOConfig.__dataclass_fields__["loss_type"].metadata["help"] for name in LOSS_TYPES)
    for name, (objective, aggregation) in LOSS_TYPES.items():
        made = GRPOConfig(**CPU, loss_type=name)
        assert (made.policy_objective, made.loss_aggregation) == (objective, aggregation)
    chosen = GRPOConfig(**CPU, loss_type="grpo", loss_aggregation="sum", policy_objective="sapo")
    assert (chosen.policy_objective, chosen.loss_aggregation) == ("sapo", "sum")


@pytest.mark.parametrize(("given", "word"), [(True, "group"), (False, "none"), ("batch", "batch")])
def test_scale_rewards_in_all_spellings_of_trl(given, word, tmp_path):
    assert GRPOConfig(**CPU, scale_rewards=given).scale_rewards == word
    assert load_from(tmp_path, f"{RECIPE}scale_rewards: {str(given).lower()}\n").get("scale_rewards") in (given, word)
    with pytest.raises(ValueError, match="`scale_rewards` is std: choose one of group, batch, none"):
        GRPOConfig(**CPU, scale_rewards="std")


def test_the_estimator_follows_from_the_bias_correction():
    assert GRPOConfig(**CPU, beta=0.1).kl_estimator == "k3+"
    assert GRPOConfig(**CPU, beta=0.1, use_bias_correction_kl=False).kl_estimator == "k3"
    assert GRPOConfig(**CPU, beta=0.1, kl_estimator="k2").kl_estimator == "k2"


def test_the_correction_for_vllm_has_trls_mode_and_older_name():
    assert trl.GRPOConfig(**CPU).vllm_importance_sampling_mode == "sequence_mask"
    assert GRPOConfig(**CPU, use_vllm=True).vllm_importance_sampling_mode == "sequence_mask"
    assert GRPOConfig(**CPU).vllm_importance_sampling_mode == "token_truncate"  # of merged weights
    assert GRPOConfig(**CPU, vllm_importance_sampling_cap=2.0).vllm_importance_sampling_clip_max == 2.0


@pytest.mark.parametrize("config", [GRPOConfig, RLOOConfig])
def test_beta_and_kl_coef_are_two_names_of_one_number(config, tmp_path):
    assert config(**CPU, kl_coef=0.2).beta == config(**CPU, beta=0.2).kl_coef == 0.2
    with pytest.raises(ValueError, match="Both are names of the KL coefficient: keep one of them"):
        config(**CPU, beta=0.1, kl_coef=0.2)
    name = config._method
    (sentence,) = problems(tmp_path, "beta: 0.1\nkl_coef: 0.2\n", RECIPE.replace("grpo", name))
    assert sentence.startswith("`beta` (line 6) is 0.1 and `kl_coef` (line 7) is 0.2. Both are names")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("num_generations: 1\n", "compares the completions of a prompt"),
        ("loss_type: drgrpo\n", "dr_grpo"),
        ("vespo_k_pos: 1.0\n", "`vespo_k_pos` (line 6) is 1.0, and `loss_type: dapo` does not read it."),
        (
            "loss_type: grpo\nimportance_sampling_level: sequence\nbeta: 0.1\n",
            "which gives the gradient of no KL and is not reproduced. Set `use_bias_correction_kl: false`",
        ),
        ("multi_objective_aggregation: normalize_then_sum\nadvantage: rloo\n", "which belongs to the advantage grpo"),
        ("sync_ref_model: true\nbeta: 0.1\n", "`sync_ref_model` (line 6) is true"),
        ("beta: -0.1\n", "`beta` (line 6) is -0.1: give a number of at least 0."),
    ],
)
def test_what_cannot_work(text, words, tmp_path):
    found = problems(tmp_path, text, RECIPE)
    assert any(words in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("loss_type: dr_grpo\n", "set `scale_rewards: none` for that"),
        ("loss_type: bnpo\ngradient_accumulation_steps: 2\n", "divides by the tokens of the rollout, as dapo does"),
        ("loss_type: cispo\n", "the cap is `epsilon`, 0.2, and every token counts 0.2 at most"),
        ("loss_type: cispo\nepsilon_high: 0.28\n", "caps the ratio π/π_old at this number itself, not at 1 plus it"),
        ("loss_type: luspo\n", "set `importance_sampling_level: sequence`"),
        ("importance_sampling_level: sequence\n", "For GSPO (arXiv:2507.18071) set `loss_type: grpo`"),
        ("loss_type: vespo\nimportance_sampling_level: sequence\n", "has no effect with `loss_type: vespo`"),
        ("loss_type: sapo\nepsilon: 0.1\nnum_iterations: 2\n", "`epsilon` (line 7) has no effect"),
    ],
)
def test_what_works_and_may_surprise_is_noted(text, words, tmp_path):
    found = load_from(tmp_path, RECIPE + text).notes
    assert any(words in note for note in found), found


@pytest.mark.parametrize(
    ("text", "has_effect"), [("epsilon: 0.3\n", True), ("epsilon_high: 0.3\n", True), ("epsilon_high: 5.0\n", False)]
)
def test_a_cap_of_cispo_below_one_acts_on_fresh_samples(text, has_effect, tmp_path):
    found = load_from(tmp_path, f"{RECIPE}loss_type: cispo\n{text}").notes
    assert any("has no effect: each rollout is used for one step" in note for note in found) != has_effect, found


@pytest.mark.parametrize(
    ("text", "trainer"),
    [("loss_type: dapo\n", "grpo"), ("scale_rewards: none\n", "grpo"), ("normalize_advantages: true\n", "rloo")],
)
def test_a_file_of_trl_is_recognised_by_a_setting_that_one_verb_alone_has(text, trainer, tmp_path):
    everything = (
        f"model_name_or_path: org/model\ndataset_name: org/data\nuse_peft: true\nreward_funcs: [sentiment]\n{text}"
    )
    found = load_from(tmp_path, everything)
    assert found.trainer == trainer and f"so this trains `trainer: {trainer}`" in " ".join(found.notes)
