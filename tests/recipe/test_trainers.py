"""`trainer: ppo | reward | sft`: which keys go with it, and what is said about the others."""

import subprocess
import sys

import pytest

from tests.recipe.helpers import PPO, RATE, load, problem, problems, setting_of, write
from trl_ext import recipe
from trl_ext.methods import TRAINERS
from trl_ext.recipe import schema


def test_a_ppo_recipe(tmp_path):
    read = recipe.load(write(tmp_path, "kl_coef: 1e-1\ngamma: 1\nlora_r: 8\n", PPO))
    assert (read.trainer, read.kind, read.title, read.loss, read.paired) == ("ppo", "ppo", "ppo", None, False)
    assert read.effective("kl_estimator") == "k1" and read.effective("advantage") == "gae"
    sections = read.sections()
    assert sections["training"] == {"kl_coef": 0.1, "gamma": 1}
    assert sections["model"] == {"model_name_or_path": "embedded", "use_peft": True, "lora_r": 8}


def test_a_recipe_without_a_trainer_knows_nothing_of_ppo(tmp_path):
    read = load(tmp_path, "")
    assert read.trainer is None and read.kind == "paired" and read.effective("kl_estimator") is None
    assert load(tmp_path, "trainer:\n").kind == "paired"


@pytest.mark.parametrize(("trainer", "paired"), [("reward", True), ("sft", False)])
def test_the_stages_before_it(tmp_path, trainer, paired):
    read = load(tmp_path, f"trainer: {trainer}\nmax_length: 64\n")
    assert (read.kind, read.paired) == (trainer, paired) and read.sections()["training"] == {"max_length": 64}


def test_the_trainer_is_a_flag_away(tmp_path):
    assert load(tmp_path, "", trainer="sft").trainer == "sft"
    assert load(tmp_path, "trainer: sft\n", trainer=None).trainer is None


def test_the_resolved_recipe_asks_for_the_same_run(tmp_path):
    read = recipe.load(write(tmp_path, "max_completion_length: 9\n", PPO), {"kl_coef": 0.2})
    read.dump(tmp_path / "resolved.yaml")
    again = recipe.load(tmp_path / "resolved.yaml")
    assert (again.values, again.loss, again.trainer) == (read.values, None, "ppo")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kl_ceof: 1\n", "`kl_ceof` (line 6) is not a setting: did you mean `kl_coef`"),
        ("kl_coef: much\n", "`kl_coef` (line 6) is 'much': give a number."),
        ("kl_coef: -1\n", "`kl_coef` (line 6) is -1: give a number of at least 0."),
        ("lam: 1.5\n", "`lam` (line 6) is 1.5: give a number from 0 to 1."),
        (
            "kl_estimator: k4\n",
            "`kl_estimator` (line 6): There is no KL estimator 'k4': choose one of k1, k2, k3, k3+.",
        ),
        ("kl_placement: nowhere\n", "There is no KL placement 'nowhere'"),
        ("beta: 0.1\n", "PPO has one KL coefficient, `kl_coef`. Set that and remove `beta`."),
        ("kl_target: 3\n", "would steer an adaptive KL coefficient: set `kl_controller: adaptive`"),
        ("kl_controller: adaptive\n", "is adaptive: set `kl_target`"),
        ("kl_controller: steady\n", "allowed are adaptive, fixed."),
        ("sync_ref_model: true\n", "`trainer: ppo` keeps its reference fixed. Remove `sync_ref_model`."),
        ("reward_adapter: nowhere\n", "`reward_adapter` (line 6) is nowhere, which holds no adapter_config.json"),
        ("reward_weights: [1, 2]\n", "has 2 weights for 1 reward source"),
        (
            "loss: dpo\n",
            "is a setting of preference losses, and `trainer: ppo` trains without one. Remove it, or remove `trainer`.",
        ),
        ("label_smoothing: 0.1\n", f"{setting_of('label_smoothing')} `trainer: ppo`"),
        (
            "variants: {ipo: {beta: 1}}\n",
            "`variants` are settings for losses, and `trainer: ppo` trains without a loss. Remove `variants`.",
        ),
        ("response_length: 53\n", "write `max_completion_length: 53`."),
        ("max_prompt_length: 53\n", "prompts are never cut, and `max_completion_length` limits the completions"),
        ("rloo_k: 4\n", "write `num_generations: 4`."),
        ("token_level_kl: false\n", "write `kl_level: sequence`."),
        ("total_episodes: 100\n", "it counts completions. Set `max_steps` or `num_train_epochs`."),
        ("vllm_guided_decoding_regex: a+\n", "write `vllm_structured_outputs_regex: a+`."),
    ],
)
def test_one_mistake_one_sentence(tmp_path, text, sentence):
    assert sentence in problem(tmp_path, text, PPO)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "trainer: po\n",
            f"did you mean ppo, dpo or grpo? Allowed are {', '.join(sorted(['dpo', 'kto', *TRAINERS]))}.",
        ),
        ("trainer: orpo\n", "`trainer` (line 3) is orpo, which is a loss. Write `loss: orpo`."),
        (
            "trainer: kto\nloss: ipo\n",
            "is kto, which trains on labelled completions, and the loss ipo trains on pairs. Keep one",
        ),
        ("trainer: [ppo]\n", "is a list"),
        (
            "kl_coef: 1\n",
            "is a setting of `trainer: ppo`, `trainer: rloo` and `trainer: grpo`. This recipe trains a preference loss. Remove it.",
        ),
        ("max_completion_length: 9\n", "`max_length` limits prompt and completion together. Remove it."),
        ("stage: ppo\n", "write `trainer: ppo`."),
        ("stage: rm\n", "write `trainer: reward`."),
        (
            "trainer: sft\nkl_coef: 1\n",
            "is a setting of `trainer: ppo`, `trainer: rloo` and `trainer: grpo`, not of `trainer: sft`. Remove it.",
        ),
        ("trainer: reward\nbeta: 1\n", setting_of("beta", "ppo", "online")),
    ],
)
def test_what_belongs_elsewhere(tmp_path, text, sentence):
    assert sentence in problem(tmp_path, text)


def test_ppo_needs_rewards_and_an_adapter(tmp_path):
    found = problems(tmp_path, "trainer: ppo\n")
    assert len(found) == 2
    assert found[0].startswith("`trainer: ppo` has no source of reward. Add `reward_funcs`")
    assert "distinguished by adapters. Add `use_peft: true`" in found[1]


def test_a_misspelt_source_is_not_also_missing(tmp_path):
    base = PPO.replace("reward_funcs", "reward_func")
    assert "did you mean `reward_funcs`" in problem(tmp_path, "", base)


@pytest.mark.parametrize(
    ("flags", "noted"),
    [
        ({}, False),
        ({"kl_estimator": "k2", "kl_placement": "loss"}, False),
        ({"kl_estimator": "k3"}, True),
        ({"kl_estimator": "k3", "kl_coef": 0}, False),
        ({"kl_placement": "loss"}, True),
        ({"kl_estimator": "k2", "kl_placement": "loss", "kl_level": "token"}, True),
    ],
)
def test_a_kl_that_gives_another_gradient_is_noted(tmp_path, flags, noted):
    notes = recipe.load(write(tmp_path, "", PPO), RATE | flags).notes
    assert len(notes) == noted and all("does not give the gradient of KL(π‖ref)" in note for note in notes)


def test_code_that_will_be_run_is_noted_before(tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemExit\ndef length(completions, **kwargs): ...\n")
    flags = RATE | {"reward_funcs": [f"{tmp_path}/mine.py", "sentiment"]}
    notes = recipe.load(write(tmp_path, "", PPO), flags).notes
    assert notes == [f"Reward: length in {tmp_path}/mine.py. This runs the code of that file or module."]


def test_a_reward_adapter_is_trained_on_a_base(tmp_path):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    sentence = problem(tmp_path, "dataset_name: embedded\n", f"trainer: reward\nmodel_name_or_path: {tmp_path}/sft\n")
    assert "is an adapter" in sentence and "name its base, org/base" in sentence


def test_every_kind_is_judged_without_importing_anything_heavy(tmp_path):
    paths = [str(write(tmp_path, "", PPO))]
    code = (
        "import sys; from trl_ext import recipe; recipe.load(sys.argv[1]);"
        "print(sorted({'torch', 'transformers', 'trl', 'datasets', 'peft', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_trainer_reads_is_what_its_configuration_has(tmp_path):
    assert {"kl_coef", "reward_funcs", "num_iterations", "learning_rate"} <= set(schema.training("ppo"))
    assert "kl_coef" not in schema.training("sft") and "packing" in schema.training("sft")
    assert "center_rewards_coefficient" in schema.training("reward")
