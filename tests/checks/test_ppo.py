"""Rules about PPO's settings give the same sentences for a recipe, before torch is imported, and for the trainer."""

import warnings

import pytest

from tests.recipe.helpers import PPO, RATE, problem, problems, write
from tests.trainers.ppo.helpers import build, config
from trl_ext import recipe
from trl_ext.checks import ConfigSettings, check, generations, sampling, unread
from trl_ext.methods import METHODS
from trl_ext.recipe import schema
from trl_ext.trainers.ppo import checks


def notes(folder, text, **flags):
    found = recipe.load(write(folder, text, PPO), RATE | flags).notes
    assert all(note.endswith(".") and "\n" not in note for note in found)
    return found


# Sampling -----------------------------------------------------------------------------------------------------------


def test_neutral_values_are_those_of_the_libraries(tmp_path):
    """Of TRL's and transformers' own defaults; nothing is noted of a recipe that sets them explicitly."""
    from transformers import GenerationConfig

    defaults = {name: field.default for name, field in schema.training("ppo").items()}
    for key, neutral in sampling.NEUTRAL.items():
        assert defaults[key] in (neutral, None), key
    known = vars(GenerationConfig()).keys() | GenerationConfig()._get_default_generation_params().keys()
    of_vllm = {"presence_penalty", "frequency_penalty", "min_tokens", "bad_words", "logit_bias", "allowed_token_ids"}
    of_vllm |= {"structured_outputs", "vllm_structured_outputs_regex"}
    assert sampling.NEUTRAL_IN_GENERATION.keys() <= known | of_vllm
    everything = {**sampling.NEUTRAL_IN_GENERATION, "temperature": 1.0, "max_new_tokens": 5, "bad_words_ids": []}
    flags = {"top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "generation_kwargs": everything}
    assert notes(tmp_path, "", **flags) == []
    for key, value in GenerationConfig()._get_default_generation_params().items():
        if key in sampling.NEUTRAL_IN_GENERATION and key not in ("do_sample", "top_k"):
            assert value in (None, sampling.NEUTRAL_IN_GENERATION[key]), key


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("top_p: 0.9\n", "`top_p` (line 6) is 0.9, so completions", "set `top_p: 1.0`."),
        ("top_k: 50\n", "`top_k` (line 6) is 50, so", "set `top_k: 0`."),
        ("min_p: 0.05\n", "`min_p` (line 6) is 0.05, so", "set `min_p: 0.0`."),
        ("repetition_penalty: 1.1\n", "`repetition_penalty` (line 6) is 1.1, so", "set `repetition_penalty: 1.0`."),
        (
            "generation_kwargs: {no_repeat_ngram_size: 3, max_new_tokens: 4}\n",
            "`no_repeat_ngram_size` in `generation_kwargs` (line 6) is 3, so",
            "remove `no_repeat_ngram_size` from `generation_kwargs`.",
        ),
        ("generation_kwargs: {temperature: 0.7}\n", "`temperature` in `generation_kwargs` (line 6) is 0.7, so", "."),
        (
            "top_p: 0.9\ntop_k: 50\n",
            "`top_p` (line 6) is 0.9 and `top_k` (line 7) is 50, so",
            "set `top_p: 1.0` and set `top_k: 0`.",
        ),
    ],
)
def test_sampling_from_another_distribution_is_noted_once(tmp_path, text, start, end):
    (note,) = notes(tmp_path, text)
    assert note.startswith(start) and note.endswith(end)
    assert "importance ratios and the KL are those of the full policy" in note and "biased" in note


def test_what_generation_kwargs_override_does_not_count(tmp_path):
    assert notes(tmp_path, "top_p: 0.9\ngeneration_kwargs: {top_p: 1.0}\n") == []
    assert notes(tmp_path, "temperature: 0.7\ngeneration_kwargs: {temperature: 0.7}\n") == []


def test_the_trainer_says_the_same_once(tiny_model, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build(tiny_model, config(tmp_path, top_p=0.9))
    said = [str(w.message) for w in caught if issubclass(w.category, checks.SettingsWarning)]
    (expected,) = notes(tmp_path, "top_p: 0.9\n")
    assert said == [expected.replace(" (line 6)", "")]


def test_a_models_own_generation_config_is_noted(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(tiny_model)
    policy.generation_config.no_repeat_ngram_size = 2
    policy.generation_config.top_p = 0.5  # which TRL overrides
    with pytest.warns(
        UserWarning, match="`no_repeat_ngram_size` of the model's own generation config is 2, so"
    ) as said:
        build(policy, config(tmp_path), path=tiny_model)
    assert not any("top_p" in str(warning.message) for warning in said)


# Batches ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "processes", "sentence"),
    [
        (
            "num_generations: 3\n",
            1,
            "`num_generations` (line 6) is 3, and a rollout of 8 completions (8 (`per_device_train_batch_size`) × 1 "
            "micro-batches) does not hold a whole number of prompts: set `num_generations` to 4, for instance",
        ),
        (
            "num_generations: 6\nper_device_train_batch_size: 4\ngradient_accumulation_steps: 2\n",
            1,
            "a rollout of 8 completions (4 (`per_device_train_batch_size`) × 2 micro-batches)",
        ),
        (
            "generation_batch_size: 12\nper_device_train_batch_size: 8\n",
            1,
            "`generation_batch_size` (line 6) is 12, which is not a multiple of 8 (`per_device_train_batch_size`) = 8: set it "
            "to 16, for instance.",
        ),
        (
            "generation_batch_size: 8\nper_device_train_batch_size: 8\n",
            2,
            "not a multiple of 8 (`per_device_train_batch_size`) × 2 processes = 16: set it to 16",
        ),
        (
            "generation_batch_size: 8\nsteps_per_generation: 2\n",
            1,
            "`generation_batch_size` (line 6) and `steps_per_generation` (line 7) both set the number of completions",
        ),
        (
            "num_generations: 4\nnum_generations_eval: 3\neval_strategy: steps\neval_size: 8\n",
            1,
            "`num_generations_eval` (line 7) is 3, and an evaluation batch of 8 completions",
        ),
    ],
)
def test_what_cannot_be_divided_says_what_to_set(tmp_path, monkeypatch, text, processes, sentence):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    assert sentence in problem(tmp_path, text, PPO)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_batches_are_judged_as_trl_judges_them(tmp_path, monkeypatch, processes):
    """Every combination of some sizes: a sentence exactly where TRL's configuration raises."""
    from tests.trainers.ppo.helpers import config as built
    from trl_ext import PPOConfig

    monkeypatch.setattr(PPOConfig, "world_size", processes)
    sizes = {
        "per_device_train_batch_size": (2, 3, 4),
        "gradient_accumulation_steps": (1, 3),
        "num_generations": (1, 2, 3, 4),
        "generation_batch_size": (None, 6, 12),
        "steps_per_generation": (None, 2),
    }
    combinations = [{}]
    for name, values in sizes.items():
        combinations = [{**rest, name: value} for rest in combinations for value in values]
    refused = 0
    for settings in combinations:
        evaluation = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}
        try:
            built(tmp_path, **settings, **evaluation)
            raised = None
        except ValueError as error:
            raised = str(error)
        refused += raised is not None
        given = {"num_generations_eval": None, **settings, **evaluation}
        values = type("Values", (dict,), {"where": lambda self, key: f"`{key}`"})(given)
        said = list(generations.batches(values, processes))
        assert bool(said) == (raised is not None), (settings, said, raised)
    assert 0.2 < refused / len(combinations) < 0.95


@pytest.mark.parametrize("total", range(1, 25))
@pytest.mark.parametrize("wanted", range(1, 9))
def test_the_proposed_number_of_generations_divides(total, wanted):
    found = generations.nearest_divisor(total, wanted)
    assert total % found == 0
    assert not any(total % n == 0 for n in range(1, total + 1) if abs(n - wanted) < abs(found - wanted))


def test_too_few_prompts_for_a_rollout(tiny_model, tmp_path):
    """Nothing would be trained: transformers says so in a log, and ends as if all were well."""
    with pytest.raises(ValueError, match="has 24 prompts, but a rollout needs 32"):
        build("/nowhere/to/be/found", config(tmp_path, per_device_train_batch_size=16), path=tiny_model)
    build(tiny_model, config(tmp_path, per_device_train_batch_size=16, num_generations=2))


# Settings of the parents --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mask_truncated_completions: true\nmissing_eos_penalty: 1\n", "which applies only to them, has no effect"),
        (
            "neftune_noise_alpha: 5\n",
            "`neftune_noise_alpha` (line 6) adds noise to the embeddings in some forward passes",
        ),
        ("torch_compile: true\n", "`torch_compile` (line 6) would have no effect"),
        ("label_smoothing_factor: 0.1\n", "would have no effect: no loss here reads it. Remove it."),
        (
            "reward_clip_range: [5, -5]\n",
            "`reward_clip_range` (line 6) is [5, -5]: give two numbers, the lower one first",
        ),
        ("deepspeed: zero2.json\n", "training steps run on the model itself, not on the wrapper that shards it"),
    ],
)
def test_what_is_harmful_is_refused(tmp_path, text, sentence):
    assert sentence in problem(tmp_path, text, PPO)


def test_a_penalty_of_nothing_may_stay(tmp_path):
    assert notes(tmp_path, "mask_truncated_completions: true\nmissing_eos_penalty: 0\n") == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data_seed: 3\n", "`data_seed` (line 6) has no effect in PPO: the order of prompts follows `seed`."),
        ("ref_model_sync_steps: 4\n", "has no effect in PPO: the reference is fixed."),
        ("log_multimodal: false\n", "has no effect in PPO: prompts are text."),
        ("vllm_mode: server\n", "`vllm_mode` (line 6) has no effect without `use_vllm: true`."),
        ("num_completions_to_print: 3\n", "has no effect without `log_completions: true`."),
        ("num_generations_eval: 2\n", "has no effect without `eval_strategy`."),
        (
            "epsilon: 0.1\ncliprange_value: 1\n",
            "`epsilon` (line 6) and `cliprange_value` (line 7) have no effect: each",
        ),
        ("epsilon_high: 0.28\n", "`epsilon_high` (line 6) has no effect: each rollout is used for one step"),
        (
            "load_best_model_at_end: true\neval_strategy: steps\neval_size: 8\n",
            "compares losses, and PPO's losses do not measure how good a policy is: set `metric_for_best_model: score`",
        ),
    ],
)
def test_what_has_no_effect_is_noted(tmp_path, text, sentence):
    (note,) = notes(tmp_path, text)
    assert sentence in note


@pytest.mark.parametrize(
    "text",
    [
        "epsilon: 0.1\nnum_iterations: 2\n",
        "epsilon: 0.1\nsteps_per_generation: 2\n",
        "epsilon: 0.2\n",
        "vllm_mode: server\nuse_vllm: true\n",
        "data_seed: null\n",
        "transformers_continuous_batching_config: {num_blocks: 8}\nuse_transformers_paged: true\n",
        "load_best_model_at_end: true\neval_strategy: steps\neval_size: 8\nmetric_for_best_model: eval_score\n",
    ],
)
def test_what_has_an_effect_is_not(tmp_path, text):
    assert notes(tmp_path, text) == []


def test_defaults_are_in_order_for_the_trainer_too(tmp_path):
    """As the configuration leaves them: it fills in some, and transformers switches some off on one process."""
    args = config(tmp_path, learning_rate=1e-6)
    assert checks.notes(args) == [] and check(ConfigSettings(args, METHODS["ppo"])) == []
    assert checks.notes(config(tmp_path, data_seed=3)) == [
        "`data_seed` has no effect in PPO: the order of prompts follows `seed`."
    ]
    (note,) = checks.notes(config(tmp_path, epsilon=0.1))
    assert note.startswith("`epsilon` has no effect: each rollout is used for one step")
    assert checks.notes(config(tmp_path, epsilon=0.1, num_iterations=2)) == []


def test_every_name_in_the_rules_is_a_setting():
    known = schema.training("ppo")
    named = {*unread.WITHOUT_EFFECT, *sampling.NEUTRAL, *unread.CLIPPING}
    assert named <= known.keys()


def test_several_mistakes_are_several_sentences(tmp_path):
    assert len(problems(tmp_path, "num_generations: 3\nneftune_noise_alpha: 5\n", PPO)) == 2
