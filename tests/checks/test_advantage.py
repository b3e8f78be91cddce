"""Rules about the advantage and what it reads: for a recipe, before torch is imported, and for the trainer's configuration."""

import inspect
import subprocess
import sys

import pytest

from tests.recipe.helpers import PPO, RATE, problem, write
from tests.trainers.ppo.helpers import config
from trl_ext import recipe
from trl_ext.checks import evaluation
from trl_ext.cli import main
from trl_ext.cli.summary import summary
from trl_ext.methods import METHODS
from trl_ext.planner import request
from trl_ext.rl import advantages, aggregation, objectives, policy_gradient
from trl_ext.trainers.ppo.surrogate import SETTINGS, surrogate

GROUPED = [name for name in advantages.available() if advantages.describe(name).needs_groups]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("advantage: rlo\n", "`advantage` (line 6) is rlo, and there is no such advantage: did you mean rloo?"),
        ("advantage: 3\n", "`advantage` (line 6)"),
        (
            "advantage: rloo\nlam: 0.9\n",
            "`lam` (line 7) is 0.9, and the advantage rloo does not read it. rloo reads no hyperparameters; `lam` belongs to "
            "gae. Remove it, or choose one of these.",
        ),
        ("advantage: reinforce_pp\nlam: 0.9\n", "reinforce_pp reads `gamma`; `lam` belongs to gae."),
        ("scale_rewards: batch\n", "gae reads `gamma` and `lam`; `scale_rewards` belongs to grpo."),
        ("advantage: dr_grpo\nscale_rewards: none\n", "the advantage dr_grpo does not read it"),
        ("advantage: rloo\ngamma: 0.99\n", "the advantage rloo does not read it"),
        ("advantage: grpo\nscale_rewards: std\n", "is std: choose one of group, batch, none."),
        ("loss_aggregation: mean\n", "is mean: choose one of token, sequence, constant, sum."),
        ("importance_sampling_level: word\n", "is word: choose one of token, sequence, sequence_sum."),
        ("policy_objective: ppo\n", "is ppo: choose one of clipped, cispo, sapo, vespo."),
        ("delta: 1.2\n", "so it must be greater than 1 + `epsilon` = 1.2."),
        ("delta: 1.25\nepsilon_high: 0.28\n", "so it must be greater than 1 + `epsilon_high` = 1.28."),
        (
            "policy_objective: cispo\ndelta: 4.0\n",
            "the objective cispo does not read it. cispo reads `epsilon_high` and `importance_sampling_level`; `delta` belongs "
            "to clipped.",
        ),
        ("policy_objective: vespo\nimportance_sampling_level: sequence\n", "vespo reads none of these settings"),
        (
            "advantage: dr_grpo\nmax_completion_length: null\n",
            "`loss_aggregation` is constant by default for the advantage dr_grpo, which divides by `max_completion_length`",
        ),
        ("advantage: remax\nuse_vllm: true\n", "greedy completions are not sampled by vLLM here"),
        (
            "advantage: rloo\nper_device_train_batch_size: 12\n",
            "`num_generations` is 8 by default for the advantage rloo, and a rollout of 12 completions (12 "
            "(`per_device_train_batch_size`) × 1 micro-batches) does not hold a whole number of prompts: set `num_generations` "
            "to 6, for instance, or change the batch.",
        ),
        (
            "advantage: rloo\nper_device_train_batch_size: 1\n",
            "give a batch whose rollout has a multiple of 8 completions.",
        ),
        (
            "advantage: rloo\nmax_train_samples: 3\nper_device_train_batch_size: 32\n",
            "32 completions, 8 for each prompt",
        ),
        (
            "advantage: rloo\nmetric_for_best_model: explained_variance\neval_strategy: steps\neval_size: 8\n",
            "`metric_for",
        ),
    ],
)
def test_what_cannot_work_is_one_sentence(tmp_path, text, sentence):
    assert sentence in problem(tmp_path, text, PPO)


@pytest.mark.parametrize("name", GROUPED)
def test_one_completion_has_nothing_to_be_compared_with(tmp_path, name, capsys):
    text = f"advantage: {name}\nnum_generations: 1\n"
    said = problem(tmp_path, text, PPO)
    assert said.startswith(
        f"`num_generations` (line 7) is 1, and the advantage {name} compares the completions of a prompt"
    )
    with pytest.raises(ValueError, match="compares the completions of a prompt"):
        config(tmp_path, advantage=name, num_generations=1)
    assert main(["validate", str(write(tmp_path, text, PPO))]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_settings_of_a_critic_are_noted_without_one(tmp_path):
    flags = RATE | {"advantage": "rloo", "critic_learning_rate": 1e-4, "cliprange_value": 0.1, "num_iterations": 2}
    (note,) = recipe.load(write(tmp_path, "", PPO), flags).notes
    assert note == (
        "`--critic_learning_rate` and `--cliprange_value` have no effect: the advantage rloo has no critic."
    )
    assert recipe.load(write(tmp_path, "", PPO), flags | {"advantage": "gae"}).notes == []


@pytest.mark.parametrize("name", advantages.available())
def test_defaults_depend_on_the_advantage(tmp_path, name):
    """Eight completions per prompt where they are compared, and nothing to remark on a complete configuration."""
    args = config(tmp_path, advantage=name)
    info = advantages.describe(name)
    assert args.num_generations == (8 if info.needs_groups else 1)
    assert args.normalize_advantages == (name == "gae")
    assert (args.critic_learning_rate is None) == (not info.needs_critic)
    assert (args.loss_aggregation, args.importance_sampling_level) == {
        "grpo": ("sequence", "token"),
        "dr_grpo": ("constant", "token"),
        "rloo": ("sum", "sequence_sum"),
    }.get(name, ("token", "token"))
    assert args.scale_rewards == ("group" if name == "grpo" else None)
    again = config(
        tmp_path, **{key: getattr(args, key) for key in ("advantage", "num_generations", "loss_aggregation")}
    )
    assert again.num_generations == args.num_generations


@pytest.mark.parametrize("name", advantages.available())
def test_validate_and_plan_say_what_is_trained(tmp_path, capsys, name):
    path = str(write(tmp_path, f"advantage: {name}\n", PPO))
    info = advantages.describe(name)
    assert main(["validate", path]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"advantage {name}: {info.formula}" in printed and info.paper in printed
    assert ("critic none" in printed) == (not info.needs_critic)
    assert f"{8 if info.needs_groups else 1} completion" in printed
    assert ("and one greedy completion per prompt" in printed) == info.needs_greedy
    asked = request.read(recipe.load(path))
    assert asked.storage.trained_adapters == 1 + info.needs_critic
    assert any("greedy completions" in note for note in asked.notes) == info.needs_greedy


def test_the_choices_are_those_of_the_pure_functions():
    """The rules know them without importing torch."""
    assert policy_gradient.AGGREGATIONS.keys() == aggregation.AGGREGATIONS.keys()
    assert tuple(policy_gradient.LEVELS) == objectives.LEVELS
    assert policy_gradient.OBJECTIVES.keys() == objectives.SURROGATES.keys()
    fields = set(vars(config("x")))
    for name, shared in policy_gradient.OBJECTIVES.items():
        own = policy_gradient.OF_ONE_OBJECTIVE.get(name, ())
        parameters = inspect.signature(objectives.SURROGATES[name]).parameters.values()
        keywords = {SETTINGS.get(p.name, p.name) for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert keywords == {*shared, *(key.removeprefix(f"{name}_") for key in own)}, name
        assert {*shared, *own} <= fields  # every hyperparameter of every objective is a setting
    scale = advantages.describe("grpo").kinds["scale_rewards"]
    assert all(map(scale.accepts, policy_gradient.SCALES)) and not scale.accepts("other")


def test_settings_reach_the_objective(tmp_path):
    given = surrogate(config(tmp_path, epsilon=0.1, epsilon_high=0.3, delta=2.0, importance_sampling_level="sequence"))
    assert given.func is objectives.policy_loss
    assert given.keywords == {"epsilon": 0.1, "epsilon_high": 0.3, "delta": 2.0, "level": "sequence"}
    cispo = surrogate(config(tmp_path, policy_objective="cispo"))
    assert cispo.func is objectives.cispo and cispo.keywords == {"epsilon_high": 5.0, "level": "token"}
    args = config(tmp_path, policy_objective="sapo", sapo_temperature_neg=2.0)
    assert surrogate(args).keywords == {"temperature_pos": 1.0, "temperature_neg": 2.0, "level": "token"}


@pytest.mark.parametrize("trainer", ["ppo", "rloo"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "vespo_k_pos: 1.0\n",
            "is 1.0, and `policy_objective: clipped` does not read it. Remove it, or set `policy_objective: vespo`.",
        ),
        ("policy_objective: sapo\nsapo_temperature_neg: 0\n", "is 0: give a number greater than 0."),
        ("policy_objective: vespo\nvespo_lambda_neg: -1\n", "is -1: give a number of at least 0."),
    ],
)
def test_a_hyperparameter_of_another_objective_or_out_of_range_is_refused(trainer, text, words, tmp_path):
    assert words in problem(tmp_path, text, PPO.replace("trainer: ppo", f"trainer: {trainer}"))


def test_a_hyperparameter_of_the_objective_is_set_by_a_flag(tmp_path):
    path = write(tmp_path, "policy_objective: sapo\n", PPO)
    assert recipe.load(path, {"sapo_temperature_neg": "2.5"}).effective("sapo_temperature_neg") == 2.5


def test_metrics_of_an_evaluation_depend_on_the_advantage():
    of = {
        name: evaluation.metrics_of(METHODS["ppo"], None, advantages.describe(name))
        for name in ("gae", "rloo", "remax")
    }
    assert "explained_variance" in of["gae"] and "frac_reward_zero_std" not in of["gae"]
    assert "explained_variance" not in of["rloo"] and "frac_reward_zero_std" in of["rloo"]
    assert not {"explained_variance", "frac_reward_zero_std"} & {*of["remax"]}


def test_runs_of_different_advantages_have_different_names(tmp_path):
    """As runs of different losses do, so that `--advantage NAME` begins a new run directory."""
    path = write(tmp_path, "", PPO)
    assert [recipe.load(path, {"advantage": name}).title for name in ("gae", "rloo")] == ["ppo", "ppo-rloo"]


def test_a_new_advantage_is_a_file(tmp_path, monkeypatch):
    """A copy of `rloo` under another name, in a folder on the package's path."""
    source = inspect.getsource(inspect.getmodule(advantages.get("rloo")))
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "mine.py").write_text(source.replace("def rloo(", "def mine("), encoding="utf-8")
    monkeypatch.setattr(advantages, "__path__", [*advantages.__path__, str(folder)])
    loaded = recipe.load(write(tmp_path, "advantage: mine\n", PPO))
    assert loaded.effective("advantage") == "mine" and config(tmp_path, advantage="mine").num_generations == 8


def test_it_is_judged_without_importing_anything_heavy(tmp_path):
    code = (
        "import sys; from trl_ext.cli import main; main(['validate', sys.argv[1]]);"
        "print(sorted({'torch', 'transformers', 'trl', 'datasets', 'peft', 'numpy'} & set(sys.modules)))"
    )
    path = str(write(tmp_path, "advantage: grpo\nscale_rewards: batch\n", PPO))
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_metrics_of_the_kl_are_those_of_a_run_with_one(tmp_path):
    kl = "eval_strategy: steps\nmetric_for_best_model: kl/sequence\n"
    assert "is not measured if the KL coefficient is 0" in problem(tmp_path, f"kl_coef: 0\n{kl}", PPO)
    without = evaluation.metrics_of(METHODS["ppo"], None, advantages.describe("rloo"), has_kl=False)
    assert "score" in without and not [
        name for name in without if "kl/" in name or name.startswith(("kl_loss", "kl_weight"))
    ]


def test_a_recipe_without_a_kl_needs_no_reference(tmp_path):
    """Nor does the plan count one."""
    without, with_kl = (recipe.load(write(tmp_path, f"kl_coef: {value}\n", PPO)) for value in (0, 0.1))
    assert (without.needs_reference, with_kl.needs_reference) == (False, True)
    assert summary(without)["KL"] == "none: its coefficient is 0" and summary(without)["reference"] == "none"
