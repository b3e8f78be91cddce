"""Merging: file < variant of the loss < flags; which loss it is; what comes out."""

import pytest

from tests.recipe.helpers import RATE, load, problem, problems, write
from trl_ext import losses, recipe


def test_nothing_is_filled_in(tmp_path):
    read = load(tmp_path, "learning_rate: 5e-6\n")
    assert read.values == {
        "loss": "dpo",
        "model_name_or_path": "embedded",
        "dataset_name": "embedded",
        "learning_rate": 5e-6,
    }
    assert read.explicit == {"model_name_or_path", "dataset_name", "learning_rate"}
    assert (read.loss, read.loss_kwargs, read.paired, read.name) == ("dpo", {}, True, "recipe")
    assert read.get("lora_r") is None and read.get("lora_r", 4) == 4
    assert read.effective("lora_r") == 16 and read.effective("learning_rate") == 5e-6


VARIANTS = """\
loss: dpo
learning_rate: 1e-6
variants:
  dpo: {beta: 0.3}
  simpo: {beta: 2.0, gamma_beta_ratio: 0.5, learning_rate: 1e-5}
  kto: {desirable_weight: auto}
  sft: {learning_rate: 2e-5}
"""


@pytest.mark.parametrize(
    ("flags", "loss", "kwargs", "rate"),
    [
        ({}, "dpo", {"beta": 0.3}, 1e-6),
        ({"loss": "sigmoid"}, "dpo", {"beta": 0.3}, 1e-6),
        ({"loss": "simpo"}, "simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5}, 1e-5),
        (
            {"loss": "simpo", "beta": 3, "learning_rate": 7e-6},
            "simpo",
            {"beta": 3, "gamma_beta_ratio": 0.5},
            7e-6,
        ),
        ({"loss": "simpo", "gamma": 1.0}, "simpo", {"beta": 2.0, "gamma": 1.0}, 1e-5),
        ({"loss": "kto"}, "kto", {"desirable_weight": "auto"}, 1e-6),
        ({"loss_type": "ipo"}, "ipo", {}, 1e-6),
        ({"loss": "ipo", "loss_kwargs": {"beta": 0.7}}, "ipo", {"beta": 0.7}, 1e-6),
        ({"beta": None}, "dpo", {}, 1e-6),
        (
            {"loss": {"simpo": 1, "sft": 0.1}},
            {"simpo": 1.0, "sft": 0.1},
            {"simpo": {"beta": 2.0, "gamma_beta_ratio": 0.5}},
            1e-5,
        ),
        (
            {"loss": {"dpo": 0.5, "simpo": 0.5}},
            {"dpo": 0.5, "simpo": 0.5},
            {"dpo": {"beta": 0.3}, "simpo": {"beta": 2.0, "gamma_beta_ratio": 0.5}},
            1e-5,
        ),
        ({"loss": {"dpo": 1, "sft": 0.1}, "beta": 0.9}, {"dpo": 1.0, "sft": 0.1}, {"beta": 0.9}, 2e-5),
        ({"loss": {"dpo": 1}}, "dpo", {"beta": 0.3}, 1e-6),
    ],
)
def test_layers(tmp_path, flags, loss, kwargs, rate):
    read = load(tmp_path, VARIANTS, **flags)
    assert (read.loss, read.loss_kwargs, read.values["learning_rate"]) == (loss, kwargs, rate)
    assert "variants" not in read.values
    losses.get(read.loss, **read.loss_kwargs)  # the registry agrees


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("loss_type: sigmoid\n", "dpo"),
        ("loss_type: [ipo]\n", "ipo"),
        (
            "loss_type: [sigmoid, bco_pair, sft]\nloss_weights: [0.8, 0.2, 1.0]\n",
            {"dpo": 0.8, "bco_pair": 0.2, "sft": 1.0},
        ),
        ("loss_type: [sigmoid, sft]\n", {"dpo": 1.0, "sft": 1.0}),
        ("loss_type: kto\n", "kto"),
        ("loss: ipo\nloss_type: ipo\n", "ipo"),
        ("loss: {sigmoid_norm: 1, sft: 0.5}\n", {"dpo_norm": 1.0, "sft": 0.5}),
        ("loss:\n", "dpo"),
    ],
)
def test_spellings_of_a_loss(tmp_path, text, loss):
    read = load(tmp_path, text)
    assert read.loss == loss and read.values["loss"] == loss
    assert not {"loss_type", "loss_weights"} & set(read.values)


def test_a_kto_recipe_that_names_no_loss(tmp_path):
    read = load(tmp_path, "desirable_weight: 1.33\n")
    assert read.loss == "kto" and not read.paired and "KTO" in read.notes[0]


def test_a_hyperparameter_written_for_another_loss_is_noted(tmp_path):
    assert load(tmp_path, "loss: dpo\nbeta: 0.01\n").notes == []
    (note,) = load(tmp_path, "loss: dpo\nbeta: 0.01\n", loss="simpo").notes
    assert "`beta` (line 4) is 0.01. It was written for dpo and is now used for simpo (default 2.0)" in note


def test_settings_of_the_other_trainer_at_their_default_are_dropped(tmp_path):
    read = load(tmp_path, "truncation_mode: keep_start\nuse_weighting: false\n", loss="kto")
    assert not {"truncation_mode", "use_weighting"} & set(read.values)


def test_sections(tmp_path):
    read = load(
        tmp_path,
        """\
        loss: ipo
        beta: 0.2
        average: false
        lora_r: 8
        use_peft: true
        bnb_4bit_compute_dtype: float32
        dataset_columns: {prompt: question}
        eval_size: 0.1
        learning_rate: 1e-5
        row_tokens: 4096
        env: {TOKENIZERS_PARALLELISM: false}
        """,
    )
    assert read.sections() == {
        "training": {
            "loss": "ipo",
            "loss_kwargs": {"beta": 0.2, "average": False},
            "learning_rate": 1e-5,
            "row_tokens": 4096,
        },
        "model": {
            "model_name_or_path": "embedded",
            "lora_r": 8,
            "use_peft": True,
            "bnb_4bit_compute_dtype": "float32",
        },
        "data": {"dataset_name": "embedded", "dataset_columns": {"prompt": "question"}, "eval_size": 0.1},
        "env": {"TOKENIZERS_PARALLELISM": "False"},
    }


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"loss": "simpo"},
        {"loss": "kto", "learning_rate": 5e-7, "run_name": "2025-01-31", "hub_model_id": "1e5"},
        {"loss": {"dpo": 1, "sft": 0.1}, "max_length": None},
        {"loss": {"simpo": 1, "dpo": 2}, "report_to": ["wandb"]},
    ],
)
def test_the_resolved_recipe_asks_for_the_same_run(tmp_path, flags):
    read = load(tmp_path, VARIANTS, **flags)
    resolved = tmp_path / "recipe.resolved.yaml"
    read.dump(resolved)
    again = recipe.load(resolved)
    assert (again.values, again.loss, again.loss_kwargs) == (read.values, read.loss, read.loss_kwargs)


def test_variants_are_judged_whether_used_or_not(tmp_path):
    found = problems(
        tmp_path,
        """\
        variants:
          simpo: {bta: 1, learning_rate: fast, gamma: 1, gamma_beta_ratio: 1, label_smoothing: 0.7}
          sft: {beta: 1}
          simpoo: {}
          kto: {use_weighting: true, loss: dpo}
          ipo: 3
        """,
    )
    text = "\n".join(found)
    assert "`variants.simpo.bta` (line 4) is not a setting: did you mean `beta` or `eta`?" in text
    assert "`variants.simpo.learning_rate` (line 4) is 'fast': give a number." in text
    assert "`variants.simpo.label_smoothing` (line 4) is 0.7" in text and "gamma_beta_ratio or gamma, not both" in text
    assert "`variants.sft.beta` (line 5) is not read by the loss sft, which reads no hyperparameters" in text
    assert "`variants.simpoo`: There is no loss 'simpoo'. Did you mean simpo" in text
    assert "`variants.kto.use_weighting` (line 7) is a setting for pairs" in text
    assert "`variants.kto.loss` (line 7) cannot be set in a variant" in text
    assert "`variants.ipo` is 3. Write, for instance, `ipo: {beta: 0.1}`" in text


def test_variants_that_are_none(tmp_path):
    assert "`variants` is not a mapping" in problem(tmp_path, "variants: [ipo]\n")
    assert "already has a variant" in problem(tmp_path, "variants:\n  dpo: {beta: 1}\n  sigmoid: {beta: 1}\n")
    assert "cannot be a flag" in problem(tmp_path, "", variants={"ipo": {}})


def test_settings_of_an_adapter_that_is_continued_are_its_own(tmp_path):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 4, "lora_alpha": 32, '
        '"target_modules": ["v_proj", "q_proj"]}'
    )
    base = f"model_name_or_path: {tmp_path}/sft\ndataset_name: embedded\nuse_peft: true\n"
    text = "lora_r: 8\nlora_alpha: 32\nlora_target_modules: [q_proj, o_proj]\n"
    rank, targets = recipe.load(write(tmp_path, text, base), RATE).notes
    assert (
        rank
        == f"`lora_r` (line 4) is 8 and has no effect: training continues the adapter in {tmp_path}/sft, which has 4."
    )
    assert "is o_proj, q_proj and has no effect" in targets and "has q_proj, v_proj." in targets
    for same in ("[q_proj, v_proj]", "all-linear"):
        assert recipe.load(write(tmp_path, f"lora_target_modules: {same}\n", base), RATE).notes == []


def test_control_characters_are_never_printed(tmp_path):
    (found,) = problems(tmp_path, '"be\\u001b[31mta": 1\n')
    assert "`be\\x1b[31mta` (line 3)" in found
