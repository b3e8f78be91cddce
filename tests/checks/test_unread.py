"""Settings that have no effect in a recipe are reported, never silently ignored."""

import json
import shutil

import pytest

from tests.recipe.helpers import RATE, load, load_from
from trl_ext import demo


def notes(folder, text):
    return load(folder, text, **RATE).notes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attn_implementation: eager\n", "`attn_implementation` (line 3) is eager, and packed rows use their own"),
        (
            "model_init_kwargs: {attn_implementation: eager}\n",
            "`attn_implementation` in `model_init_kwargs` (line 3) is eager, and packed rows use their own",
        ),
        ("loss: kto\nattn_implementation: eager\n", "those of `packing: false`, or of a model that cannot be packed."),
        ("pad_to_multiple_of: 8\n", "`pad_to_multiple_of` (line 3) is 8, and packed rows are not padded"),
        ("optim: adafactor\noptim_target_modules: all-linear\n", "`optim_target_modules` (line 4) has no effect"),
        (
            "optim_target_modules: all-linear\n",
            "only GaLore and APOLLO optimizers read it, and `optim` is adamw_torch.",
        ),
        (
            "optim: paged_adamw_8bit\noptim_args: 'rank=8'\n",
            "`optim_args` (line 4) has no effect: paged_adamw_8bit does not read it",
        ),
        ("model_revision: v2\n", "`model_revision` (line 3) has no effect: the model comes with trl-ext"),
        ("dataset_revision: v2\n", "`dataset_revision` (line 3) has no effect: embedded is not read from the Hub"),
        ("dataset_config: en\n", "`dataset_config` (line 3) has no effect: embedded has no configurations"),
        ("label_names: [x]\n", "`label_names` (line 3) has no effect: preferences have no labels for the model"),
        ("length_column_name: n\n", "`length_column_name` (line 3) has no effect: examples are not grouped by length"),
        (
            "trainer: sft\nlength_column_name: n\n",
            "`length_column_name` (line 4) has no effect: `train_sampling_strategy` is not group_by_length",
        ),
        ("include_for_metrics: [loss]\n", "it is for `compute_metrics`, which only a script can give"),
        ("ddp_bucket_cap_mb: 5\n", "gradients are summed over processes once per step, without DDP"),
        (
            "auto_find_batch_size: true\n",
            "a step that does not fit in memory is repeated with shorter rows anyway, and its examples stay the same",
        ),
        (
            "auto_find_batch_size: true\nfsdp: full_shard\nrow_tokens: 512\ngradient_checkpointing: true\nuse_peft: true\n",
            "has no effect: with FSDP a step that does not fit in memory ends the run. Lower `row_tokens` if it does",
        ),
        ("streaming: true\n", "`streaming` (line 3) has no effect without `datasets`"),
    ],
)
def test_what_has_no_effect_is_said(text, said, tmp_path):
    (note,) = notes(tmp_path, text)
    assert said in note and note.endswith(".")


@pytest.mark.parametrize(
    "text",
    [
        "attn_implementation: sdpa\n",
        "attn_implementation: eager\npacking: false\npad_to_multiple_of: 8\n",
        "attn_implementation: eager\ntruncation_mode: keep_end\n",
        "trainer: sft\nlength_column_name: n\ntrain_sampling_strategy: group_by_length\nddp_bucket_cap_mb: 5\n",
        "trainer: sft\nattn_implementation: eager\npad_to_multiple_of: 8\n",
        "optim: sgd\noptim_args: 'momentum=0.9'\n",
        "optim: ademamix\noptim_args: 'beta3=0.99, alpha=2'\n",
        "model_revision: main\ndebug: underflow_overflow\n",
    ],
)
def test_what_acts_is_not_spoken_of(text, tmp_path):
    assert notes(tmp_path, text) == []


def test_models_whose_rows_are_padded_read_eager(tmp_path):
    text = "model_name_or_path: {}\ndataset_name: embedded\nattn_implementation: eager\n"
    for name, noted in (("google/gemma-2-9b-it", 0), ("google/gemma-3-12b-it", 1), ("google/gemma-2.5-x", 0)):
        assert len(load_from(tmp_path, text.format(name)).notes) == noted
    model = shutil.copytree(demo.MODEL, tmp_path / "capped")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"attn_logit_softcapping": 50.0}))
    assert load_from(tmp_path, text.format(model)).notes == []


def test_revisions_are_of_the_hub(tmp_path):
    text = "model_name_or_path: {}\ndataset_name: {}\nmodel_revision: v2\ndataset_revision: v3\ndataset_config: en\n"
    assert load_from(tmp_path, text.format("org/name", "org/data")).notes == []
    model = shutil.copytree(demo.MODEL, tmp_path / "model")
    found = load_from(tmp_path, text.format(model, demo.DATA / "train.jsonl")).notes
    assert [note.split("`")[1] for note in found] == ["model_revision", "dataset_revision", "dataset_config"]


def test_the_revision_of_a_local_adapter_is_that_of_its_base(tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for base, noted in (("org/name", 0), (str(demo.MODEL), 1)):
        (adapter / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": base, "peft_type": "LORA"})
        )
        text = f"model_name_or_path: {adapter}\ndataset_name: embedded\nmodel_revision: v2\n"
        assert len(load_from(tmp_path, text).notes) == noted


def test_a_folder_may_have_configurations(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(demo.DATA / "train.jsonl", folder)
    text = f"model_name_or_path: embedded\ndataset_name: {folder}\ndataset_config: en\n"
    assert "has no configurations" in load_from(tmp_path, text).notes[0]
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: en\n  data_files: train.jsonl\n---\n")
    assert load_from(tmp_path, text).notes == []


def test_a_mixture_says_itself_what_is_read(tmp_path):
    base = "model_name_or_path: embedded\ndatasets: [{path: a/b}]\n"
    found = load_from(tmp_path, base + "dataset_config: en\ndataset_revision: v2\ndataset_streaming: true\n").notes
    assert len(found) == 3 and all("has no effect with `datasets`" in note for note in found)
