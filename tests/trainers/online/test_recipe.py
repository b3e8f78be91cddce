"""`trainer: online` with a `loss`: which keys go with it, what is refused before torch is imported, and what is planned."""

import subprocess
import sys

import pytest

from tests.recipe.helpers import RATE, problem, problems, write
from trl_ext import recipe
from trl_ext.cli import main
from trl_ext.planner import request

ONLINE = """\
trainer: online
model_name_or_path: embedded
dataset_name: embedded
use_peft: true
reward_funcs: [sentiment]
"""


def test_a_recipe_of_a_loss_on_sampled_pairs(tmp_path):
    read = recipe.load(write(tmp_path, "loss: ipo\nbeta: 4\nnum_generations: 4\n", ONLINE), RATE)
    assert (read.trainer, read.kind, read.loss, read.title, read.paired) == ("online", "online", "ipo", "ipo", False)
    assert read.sections()["training"] == {"loss": "ipo", "loss_kwargs": {"beta": 4}, "num_generations": 4, **RATE}
    assert read.notes == [] and {"trainer", "loss"} <= read.explicit


def test_without_a_loss_it_is_dpo(tmp_path):
    read = recipe.load(write(tmp_path, "", ONLINE))
    assert read.loss == "dpo" and read.effective("num_generations") == 2


def test_the_loss_is_a_flag_away(tmp_path):
    path = write(tmp_path, "loss: dpo\nvariants: {dpo: {beta: 1}, ipo: {beta: 4, learning_rate: 2e-4}}\n", ONLINE)
    assert recipe.load(path).loss_kwargs == {"beta": 1}
    read = recipe.load(path, {"loss": "ipo"})
    assert read.loss_kwargs == {"beta": 4} and read.get("learning_rate") == 2e-4
    mixed = recipe.load(path, {"loss": {"dpo": 1, "sft": 0.2}})
    assert mixed.loss == {"dpo": 1.0, "sft": 0.2} and mixed.loss_kwargs == {"dpo": {"beta": 1}}


def test_the_resolved_recipe_asks_for_the_same_run(tmp_path):
    read = recipe.load(write(tmp_path, "loss: {dpo: 1, sft: 0.1}\nnum_iterations: 2\n", ONLINE), {"beta": 0.3})
    read.dump(tmp_path / "resolved.yaml")
    again = recipe.load(tmp_path / "resolved.yaml")
    assert (again.values, again.loss, again.trainer) == (read.values, read.loss, "online")
    assert again.loss_kwargs == read.loss_kwargs


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "loss: kto\n",
            "`trainer: online` samples pairs, and the loss kto reads single completions: choose a loss on pairs.",
        ),
        ("loss: aot\n", "The loss aot compares the pairs of a whole optimizer step"),
        ("loss: dop\n", "Did you mean dpop or dpo?"),
        ("loss: dpo\ngamma_beta_ratio: 1\n", "is not read by the loss dpo"),
        ("num_generations: 1\n", "`num_generations` (line 6) is 1: a pair needs at least 2 completions of a prompt."),
        ("num_generations: 3\n", "counts completions and is 8: give a multiple of 3"),
        (
            "epsilon: 0.1\n",
            "`epsilon` (line 6) is 0.1. It shapes a policy gradient, and no loss on pairs reads it: remove it.",
        ),
        ("mask_truncated_completions: true\nmissing_eos_penalty: 1\n", "which applies only to them, has no effect"),
        ("sync_ref_model: true\n", "`trainer: online` keeps its reference fixed. Remove `sync_ref_model`."),
        ("temperature: 0\n", "`temperature` (line 6) is 0: give a number greater than 0."),
        ("reward_weights: [1, 2]\n", "has 2 weights for 1 reward source"),
        ("reward_adapter: nowhere\n", "`reward_adapter` (line 6) is nowhere, which holds no adapter_config.json"),
        (
            "kl_coef: 1\n",
            "`kl_coef` (line 6) is a setting of `trainer: ppo`, `trainer: rloo` and `trainer: grpo`, not of `trainer: online`. Remove it.",
        ),
        ("variants: {kto: {desirable_weight: 2}, ipo: {beta: -1}}\n", "`variants.ipo.beta`"),
    ],
)
def test_one_mistake_one_sentence(tmp_path, text, sentence):
    assert sentence in problem(tmp_path, text, ONLINE)


def test_it_needs_rewards_and_an_adapter(tmp_path):
    found = problems(tmp_path, "trainer: online\n")
    assert len(found) == 2
    assert found[0].startswith("`trainer: online` has no source of reward. Add `reward_funcs`")
    assert "distinguished by adapters. Add `use_peft: true`" in found[1]


def test_it_is_judged_without_importing_anything_heavy(tmp_path):
    code = (
        "import sys; from trl_ext import recipe; recipe.load(sys.argv[1]);"
        "print(sorted({'torch', 'transformers', 'trl', 'datasets', 'peft', 'numpy'} & set(sys.modules)))"
    )
    path = str(write(tmp_path, "loss: simpo\n", ONLINE))
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_validate_says_what_will_be_done(tmp_path, capsys):
    path = str(write(tmp_path, "loss: ipo\nnum_generations: 4\nnum_iterations: 2\n", ONLINE))
    assert main(["validate", path]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "a loss on sampled pairs" in printed and "rewards sentiment" in printed
    assert "best and worst of 4 completions per prompt, 2 pairs per step and process, 2 epochs per rollout" in printed


def test_it_is_planned_without_a_critic(tmp_path):
    read = [recipe.load(write(tmp_path, f"loss: {loss}\n", ONLINE)) for loss in ("dpo", "simpo")]
    asked = [request.read(one) for one in read]
    assert [one.storage.trained_adapters for one in asked] == [1, 1]
    assert [one.training.needs_reference for one in asked] == [True, False]
    assert all(one.training.cached_tokens > 0 and one.training.sequences == 1 for one in asked)
