"""`trl-ext convert`: what a file of another program becomes."""

from pathlib import Path

import pytest

from trl_ext import cli, recipe
from trl_ext.drafting.converted import convert_file
from trl_ext.support.errors import UserError

HANDBOOK = """\
# The model
model_name_or_path: embedded
torch_dtype: float32  # for a CPU

# The data
dataset_mixer:
  embedded: 1.0
preprocessing_num_workers: 1
max_prompt_length: 64
max_length: 128
warmup_ratio: 0.1
loss_type: sigmoid
max_stepss: 2
"""


def converted(tmp_path: Path, text: str, trainer: str | None = None):
    path = tmp_path / "theirs.yaml"
    path.write_text(text, encoding="utf-8")
    return convert_file(path, trainer)


def test_a_file_becomes_a_recipe_with_its_order_and_comments(tmp_path):
    made = converted(tmp_path, HANDBOOK)
    assert made.problems == []
    head, _, rest = made.text.partition("\n")
    assert head.startswith("# theirs.yaml as a recipe") and "the alignment handbook" in head
    kept, _, lists = rest.partition("\n# No counterpart here:\n")
    assert kept == (
        "# The model\n"
        "model_name_or_path: embedded\n"
        "dtype: float32  # torch_dtype. for a CPU\n"
        "\n"
        "# The data\n"
        "dataset_name: embedded  # dataset_mixer\n"
        "dataset_num_proc: 1  # preprocessing_num_workers\n"
        "max_length: 128\n"
        "warmup_steps: 0.1  # warmup_ratio. `warmup_steps` takes a share of the steps too.\n"
        "loss_type: sigmoid\n"
    )
    assert "max_prompt_length: `max_length` limits prompt and completion together." in lists
    assert "max_stepss: trl-ext does not know this key. Did you mean `max_steps`?" in lists


@pytest.mark.parametrize(
    ("trainer", "line"),
    [("kto", "loss: kto  # `--trainer kto`."), ("orpo", "loss: orpo  # `--trainer orpo`."), ("sft", "trainer: sft")],
)
def test_the_flag_says_what_is_trained(tmp_path, trainer, line):
    text = HANDBOOK.replace("loss_type: sigmoid\n", "").replace(
        "model_name_or_path: embedded", "model_name_or_path: org/m"
    )
    text = text.replace("  embedded: 1.0", "  org/data: 1.0")
    assert "does not say what it trains" in converted(tmp_path, text).problems[0]
    made = converted(tmp_path, text, trainer)
    assert made.problems == [] and line in made.text


def test_the_heading_of_a_section_stays_if_its_first_key_is_left_out(tmp_path):
    text = "model_name_or_path: embedded\n\n# Data\nsave_safetensors: true\n\n\ndataset_name: embedded\nloss: dpo\n"
    made = converted(tmp_path, text)
    assert "model_name_or_path: embedded\n\n# Data\n\ndataset_name: embedded\nloss: dpo\n" in made.text


@pytest.mark.parametrize(
    "text", ["{loss: dpo, model: embedded, dataset: embedded}\n", "a: &x embedded\nmodel: *x\ndataset: *x\n"]
)
def test_files_whose_lines_depend_on_each_other(tmp_path, text):
    made = converted(tmp_path, text)
    assert made.problems == [] and "model_name_or_path: embedded  # model\n" in made.text


def test_what_samples_completions_keeps_their_length(tmp_path):
    text = (
        "trainer: ppo\nmodel_name_or_path: embedded\ndataset_name: embedded\nuse_peft: true\nreward_model_path: org/rm\n"
        "max_completion_length: 24\nmax_prompt_length: 8\n"
    )
    made = converted(tmp_path, text)
    assert "\nmax_completion_length: 24\n" in made.text and "#   max_prompt_length: Prompts are never cut" in made.text


def test_each_limit_of_a_part_names_that_part(tmp_path):
    made = converted(tmp_path, MINE + "loss: dpo\nmax_prompt_length: 8\nmax_completion_length: 9\n")
    lists = made.text.replace("\n#     ", " ")
    assert (
        "max_prompt_length: `max_length` limits prompt and completion together. A long prompt is no longer cut"
        in lists
    )
    assert (
        "max_completion_length: `max_length` limits prompt and completion together. A long completion is no" in lists
    )


def test_what_a_check_refuses_is_listed_with_the_reason(tmp_path):
    made = converted(tmp_path, HANDBOOK + "label_smoothing_factor: 0.1\n")
    assert made.problems == []
    assert "#   label_smoothing_factor: `label_smoothing_factor` would have no effect" in made.text.replace(
        "\n#     ", " "
    )


def test_a_converted_file_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (
        "model_name_or_path: embedded\ndataset_mixer: {embedded: 1.0}\ngamma_beta_ratio: 0.5\nmax_seq_length: 64\n"
        "learning_rate: 5.0e-4\nmax_steps: 1\nuse_peft: true\nlora_target_modules: [q_proj]\nreport_to: none\n"
        "per_device_train_batch_size: 4\ntrainer: simpo\n"
    )
    Path("theirs.yaml").write_text(text, encoding="utf-8")
    assert cli.main(["convert", "theirs.yaml", "--output", "mine.yaml"]) == 0
    assert recipe.load("mine.yaml").loss == "simpo"
    assert cli.main(["run", "mine.yaml", "--output_dir", "out"]) == 0
    assert Path("out", "adapter_model.safetensors").is_file()


def test_a_launch_configuration_is_no_recipe(tmp_path):
    text = "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_processes: 2\n"
    with pytest.raises(UserError, match=r"configuration file of accelerate.*accelerate launch --config_file"):
        converted(tmp_path, text)


MINE = "model_name_or_path: embedded\ndataset_name: embedded\n"


@pytest.mark.parametrize(
    ("text", "trainer", "first", "second"),
    [
        (MINE + "loss_type: sigmoid\n", "kto", "`--trainer kto`", "`loss_type: sigmoid`"),
        (MINE + "loss_type: ipo\n", "orpo", "`--trainer orpo`", "`loss_type: ipo`"),
        (MINE + "loss: ipo\ntrainer: kto\n", None, "`trainer: kto`", "`loss: ipo`"),
        ("model_name_or_path: a/b\nstage: dpo\nfinetuning_type: full\n", "kto", "`--trainer kto`", "`stage: dpo`"),
        ("model_name_or_path: a/b\nstage: dpo\nfinetuning_type: full\n", "sft", "`--trainer sft`", "`stage: dpo`"),
        ("base_model: a/b\nrl: kto\nstage: dpo\n", None, "`rl: kto`", "`stage: dpo`"),
    ],
)
def test_a_file_that_names_two_trainings_is_not_converted(tmp_path, text, trainer, first, second):
    with pytest.raises(UserError) as error:
        converted(tmp_path, text, trainer)
    assert f"{first} and {second} name different trainings. Keep one of them." in error.value.problems


@pytest.mark.parametrize(
    ("text", "trainer", "line"),
    [
        ("loss_type: sigmoid\n", "dpo", "\nloss_type: sigmoid\n"),
        ("loss_type: [ipo, sft]\n", "dpo", "\nloss_type: [ipo, sft]\n"),
        ("loss_type: sigmoid\n", "CPO", "\nloss: cpo  # loss_type."),
        ("loss_type: simpo\n", "cpo", "\nloss: {simpo: 1, sft: 1.0}\n"),  # TRL's CPOConfig has `cpo_alpha: 1.0`
        ("loss_type: simpo\ncpo_alpha: 0.0\n", "cpo", "\nloss: simpo\n"),
        ("loss_type: alphapo\ncpo_alpha: 0.5\n", "cpo", "\nloss: {alphapo: 1, sft: 0.5}\n"),
    ],
)
def test_a_flag_that_the_loss_of_the_file_agrees_with(tmp_path, text, trainer, line):
    made = converted(tmp_path, MINE + text, trainer)
    assert made.problems == [] and line in made.text and "trainer:" not in made.text


def test_the_flag_agrees_with_the_stage_of_a_file(tmp_path):
    text = "model_name_or_path: embedded\ndataset: embedded\nstage: dpo\nfinetuning_type: full\n"
    assert converted(tmp_path, text, "dpo").text == converted(tmp_path, text).text


def test_an_unknown_trainer(tmp_path):
    with pytest.raises(UserError, match="`--trainer` is 'dop': did you mean dpo"):
        converted(tmp_path, MINE + "loss: dpo\n", "dop")


def test_validate_names_the_verb(tmp_path, capsys):
    path = tmp_path / "theirs.yaml"
    path.write_text(HANDBOOK, encoding="utf-8")
    assert cli.main(["validate", str(path)]) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"`trl-ext convert {path}` writes this file as a recipe.")


def test_a_file_is_never_overwritten_without_being_told(tmp_path, capsys):
    path, out = tmp_path / "theirs.yaml", tmp_path / "mine.yaml"
    path.write_text(HANDBOOK, encoding="utf-8")
    out.write_text("mine", encoding="utf-8")
    assert cli.main(["convert", str(path), "--output", str(out)]) == 2
    assert out.read_text(encoding="utf-8") == "mine"
    assert cli.main(["convert", str(path), "--output", str(out), "--overwrite"]) == 0
    assert recipe.load(out).loss == "dpo"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "model: org/a\nbase_model: org/b\nloss: dpo\n",
            "`model: org/a` and `base_model: org/b` name different models.",
        ),
        ("stage: dpo\nfinetuning_type: lora\nval_size: much\n", "`val_size` is a number of rows, or a share"),
        ("stage: dpo\nfinetuning_type: lora\nmax_samples: -3\n", "`max_samples` is a number of rows, at least 1"),
        (
            "stage: sft\nfinetuning_type: lora\ndataset: a,b\nmix_strategy: interleave_under\ninterleave_probs: 0.5\n",
            "one share per dataset, and there are 2 datasets",
        ),
        ("base_model: org/a\nrl: dpo\nmicro_batch_size: 1\ndatasets:\n- path: org/d\n- 5\n", "5 names no dataset"),
    ],
)
def test_nothing_is_written_where_a_value_has_no_meaning(text, said, tmp_path):
    with pytest.raises(UserError) as error:
        converted(tmp_path, text)
    assert said in str(error.value)


def test_keys_that_are_left_out_together(tmp_path):
    text = "stage: dpo\nfinetuning_type: lora\nmodel_name_or_path: embedded\ndataset: embedded\nref_model:\nref_model_adapters:\n"
    assert "They are empty" in converted(tmp_path, text).text


def test_what_somebody_has_to_decide_is_not_said_to_have_no_effect(tmp_path):
    text = converted(tmp_path, "model_name_or_path: embedded\nloss_type: sigmoid\ndataset_mixer: []\n").text
    assert text.index("No counterpart here:") < text.index("dataset_mixer: ")
    assert "Left out, without effect on training:" not in text


def test_a_setting_that_is_not_read_is_left_out(tmp_path):
    made = converted(
        tmp_path,
        "model_name_or_path: embedded\ndataset_name: embedded\nloss_type: sigmoid\ndo_train: true\neval_steps: 50\n",
    )
    kept, _, lists = made.text.partition("# Left out, without effect on training:\n")
    assert "do_train" not in kept and "eval_steps" not in kept and "No counterpart" not in kept
    assert "do_train: `do_train` has no effect" in lists and "eval_steps: `eval_steps` has no effect without" in lists
    assert made.notes == []
