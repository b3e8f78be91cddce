"""Which of TRL's verbs a YAML file is for: its keys, `trainer`, or a flag say it, and otherwise the reader is asked."""

import pytest

from tests.recipe.helpers import load, problem
from trl_ext import recipe
from trl_ext.build.rewards import load as load_reward
from trl_ext.checks import packages
from trl_ext.support.errors import UserError

FILE = """\
model_name_or_path: org/model
dataset_name: org/pairs
learning_rate: 5e-7
max_length: 512
report_to: none
"""


@pytest.fixture
def trl(tmp_path):
    def read(text="", **flags):
        path = tmp_path / "trl.yaml"
        path.write_text(FILE + text, encoding="utf-8")
        return recipe.load(path, flags)

    return read


@pytest.mark.parametrize("text", ["", "beta: 0.1\n", "use_peft: true\nlora_r: 32\n", "dataset_num_proc: 2\n"])
def test_a_file_for_either_verb_is_asked_about(tmp_path, text):
    sentence = problem(tmp_path, FILE + text, "")
    assert "does not say what it trains" in sentence
    assert "`loss: dpo`" in sentence and "`loss: kto`" in sentence and "--trainer kto" in sentence


@pytest.mark.parametrize(
    ("text", "flags", "loss"),
    [
        ("", {"trainer": "kto"}, "kto"),
        ("", {"trainer": "dpo"}, "dpo"),
        ("trainer: kto\n", {}, "kto"),
        ("loss_type: apo_zero_unpaired\n", {"trainer": "kto"}, "apo_zero_unpaired"),
        ("loss_type: ipo\n", {"trainer": "dpo"}, "ipo"),
        ("", {"loss": "simpo"}, "simpo"),
        ("trainer: kto\n", {"loss": "aot_unpaired"}, "aot_unpaired"),
        ("desirable_weight: 1.2\n", {}, "kto"),
        ("use_weighting: true\n", {}, "dpo"),
        ("truncation_mode: keep_end\n", {}, "dpo"),
    ],
)
def test_what_says_it(trl, text, flags, loss):
    found = trl(text, **flags)
    assert found.loss == loss and found.trainer is None
    assert found.kind == ("unpaired" if loss in ("kto", "apo_zero_unpaired") else "paired")


@pytest.mark.parametrize(
    ("text", "trainer"),
    [("assistant_only_loss: true\n", "sft"), ("packing: true\n", "sft"), ("center_rewards_coefficient: 0.01\n", "reward")],
)  # fmt: skip
def test_files_for_other_verbs_are_recognised_by_their_own_settings(trl, text, trainer):
    found = trl(text)
    assert found.trainer == trainer
    assert f"so this trains `trainer: {trainer}`" in " ".join(found.notes)


REWARDS = f"{FILE.replace('max_length: 512', 'use_peft: true')}reward_funcs: [accuracy_reward]\n"


@pytest.mark.parametrize("trainer", ["grpo", "rloo", "ppo"])
def test_the_reward_model_of_trls_scripts_comes_before_the_functions(tmp_path, trainer):
    path = tmp_path / "trl.yaml"
    path.write_text(f"{REWARDS}reward_model_name_or_path: org/scorer\n", encoding="utf-8")
    assert recipe.load(path, {"trainer": trainer}).get("reward_funcs") == ["org/scorer", "accuracy_reward"]
    path.write_text(REWARDS, encoding="utf-8")
    flags = {"trainer": trainer, "reward_model_name_or_path": "org/other"}
    assert recipe.load(path, flags).get("reward_funcs") == ["org/other", "accuracy_reward"]
    path.write_text(f"{REWARDS}reward_model_name_or_path: null\n", encoding="utf-8")
    assert recipe.load(path, {"trainer": trainer}).get("reward_funcs") == ["accuracy_reward"]


def test_a_reward_function_of_trls_scripts_that_has_fixed_settings(tmp_path):
    path = tmp_path / "trl.yaml"
    path.write_text(REWARDS.replace("accuracy_reward", "get_soft_overlong_punishment"), encoding="utf-8")
    (name,) = recipe.load(path, {"trainer": "grpo"}).get("reward_funcs")
    assert load_reward(name)(completion_ids=[[1] * 10, [1] * 1152, [1] * 2000]) == [0.0, -0.5, -1]  # 1280 and 256


@pytest.mark.parametrize(
    "name", ["accuracy_reward", "trl.rewards.reasoning_accuracy_reward", "trl.rewards:accuracy_reward"]
)
def test_a_reward_that_needs_math_verify_is_refused_before_training_where_it_is_missing(name, tmp_path, monkeypatch):
    path = tmp_path / "trl.yaml"
    path.write_text(REWARDS.replace("accuracy_reward", name), encoding="utf-8")
    monkeypatch.setattr(packages, "is_installed", lambda package: package != "math_verify")
    with pytest.raises(
        UserError, match=f"names {name}, which compares mathematical answers .*pip install math-verify"
    ):
        recipe.load(path, {"trainer": "grpo"}, to_train=True)
    recipe.load(path, {"trainer": "grpo"})  # to look at it
    monkeypatch.setattr(packages, "is_installed", lambda package: True)
    recipe.load(path, {"trainer": "grpo"}, to_train=True)


def test_a_recipe_of_trl_ext_still_trains_dpo(tmp_path):
    assert load(tmp_path, "learning_rate: 5e-7\n").loss == "dpo"  # with the embedded model


@pytest.mark.parametrize("line", ["row_tokens: 1024\n", "eval_size: 10\n", "variants: {ipo: {beta: 0.1}}\n"])
def test_settings_of_trl_ext_show_a_recipe(trl, line):
    assert trl(line).loss == "dpo"


def test_a_data_file_shows_a_recipe(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n', encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(f"model_name_or_path: org/model\ndataset_name: {tmp_path / 'pairs.jsonl'}\n", encoding="utf-8")
    assert recipe.load(path).loss == "dpo"  # TRL loads no file by its name


@pytest.mark.parametrize(("verb", "loss", "has"), [("kto", "ipo", "pairs"), ("dpo", "kto", "labelled completions")])
def test_a_loss_that_the_verb_does_not_train(tmp_path, verb, loss, has):
    assert f"the loss {loss} trains on {has}" in problem(tmp_path, FILE + f"loss: {loss}\n", "", trainer=verb)


def test_a_run_that_was_started_with_the_flag_is_found_by_its_file(tmp_path, monkeypatch):
    from trl_ext.runs import finished

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "trl.yaml"
    path.write_text(FILE, encoding="utf-8")
    with pytest.raises(UserError, match="does not say what it trains"):
        finished.run_of(path)
    run = tmp_path / "runs" / "trl-kto"
    run.mkdir(parents=True)
    (run / "adapter_config.json").write_text("{}", encoding="utf-8")
    (run / "adapter_model.safetensors").write_bytes(b"")
    recipe.load(path, {"trainer": "kto"}).dump(run / "recipe.resolved.yaml")
    assert finished.run_of(path).resolve() == run
