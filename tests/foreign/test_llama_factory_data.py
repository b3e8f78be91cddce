"""Data of LLaMA-Factory files: names in dataset_info.json, their columns, mixtures and cuts."""

import json

import pytest

from trl_ext import data
from trl_ext.drafting.conversion import convert
from trl_ext.recipe import reader

INFO = {
    "pairs": {
        "file_name": "pairs.json",
        "ranking": True,
        "columns": {"prompt": "ask", "query": "more", "chosen": "good", "rejected": "bad"},
    },
    "labels": {
        "file_name": "labels.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "chat", "kto_tag": "liked"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "texts": {"file_name": "texts.jsonl", "columns": {"prompt": "document"}},
    "on_the_hub": {"hf_hub_url": "org/pairs", "subset": "en", "split": "train_prefs", "ranking": True},
    "its_test": {"hf_hub_url": "org/pairs", "subset": "en", "split": "test_prefs", "ranking": True},
    "plain": {"file_name": "plain.json"},
    "some": {"file_name": "plain.json", "num_samples": 50},
}
PAIRS = [{"ask": "Add.", "more": f"{n} + 1", "good": str(n + 1), "bad": "no"} for n in range(3)]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset_info.json").write_text(json.dumps(INFO))
    (tmp_path / "data/pairs.json").write_text(json.dumps(PAIRS))
    rows = [{"chat": CHAT, "liked": liked} for liked in (True, False)]
    (tmp_path / "data/labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def converted(stage: str, more: str):
    return convert(reader.parse(f"stage: {stage}\nfinetuning_type: lora\n{more}"))


def settings(stage: str, more: str) -> dict:
    return {key: line.value for key, line in converted(stage, more).settings.items()}


def test_columns_of_its_description_are_those_that_are_read():
    found = settings("dpo", "dataset: pairs\n")
    loaded = data.load(found["dataset_name"], columns=found["dataset_columns"])
    first = loaded.dataset[0]
    # LLaMA-Factory writes prompt and query with a line break between them
    assert first["prompt"] in ("Add.\n0 + 1", [{"role": "user", "content": "Add.\n0 + 1"}])
    assert "1" in str(first["chosen"]) and "no" in str(first["rejected"])


def test_labels_of_its_description_are_those_that_are_read():
    found = settings("kto", "dataset: labels\n")
    loaded = data.load(found["dataset_name"], columns=found["dataset_columns"])
    assert loaded.dataset["label"][:] == [True, False]


def test_data_on_the_hub_has_its_configuration_and_split():
    found = settings("dpo", "dataset: on_the_hub\nmax_samples: 20\nval_size: 5\n")
    expected = {
        "dataset_name": "org/pairs",
        "dataset_config": "en",
        "dataset_train_split": "train_prefs[:20]",
        "eval_size": 5,
    }
    assert expected.items() <= found.items() and "max_train_samples" not in found
    assert settings("dpo", "dataset: on_the_hub\nmax_samples: 20\n")["max_train_samples"] == 20


def test_another_split_is_evaluation_data_and_other_data_is_not():
    more = "dataset: on_the_hub\neval_dataset: {}\neval_strategy: steps\nmax_samples: 9\n"
    found = settings("dpo", more.format("its_test"))
    assert (found["dataset_test_split"], found["eval_strategy"], found["max_eval_samples"]) == (
        "test_prefs",
        "steps",
        9,
    )
    made = converted("dpo", more.format("pairs"))
    assert made.settings["eval_strategy"].value == "no"
    assert any(entry.key == "eval_dataset" and entry.matters for entry in made.left)


def test_several_datasets_are_a_mixture_each_cut_to_max_samples():
    found = settings("sft", "dataset: plain, on_the_hub\nmax_samples: 100\n")
    assert found["datasets"] == [
        {"path": "data/plain.json", "split": "train[:100]"},
        {"path": "org/pairs", "name": "en", "split": "train_prefs[:100]"},
    ]
    assert "max_train_samples" not in found


def test_probabilities_are_shares_of_the_mixture():
    more = "dataset: plain, some\nmix_strategy: interleave_under\n"
    shares = [entry["fraction"] for entry in settings("sft", f"{more}interleave_probs: 0.7,0.3\n")["datasets"]]
    assert shares == [0.7, 0.3]
    assert [entry["fraction"] for entry in settings("sft", more)["datasets"]] == [0.5, 0.5]
    made = converted("sft", "dataset: plain, some\nmix_strategy: interleave_over\ninterleave_probs: 0.7,0.3\n")
    assert "repeats the smaller ones" in made.settings["datasets"].why
    assert "fraction" not in made.settings["datasets"].value[0]


def test_conversations_are_trained_on_the_turns_of_the_assistant():
    assert settings("sft", "dataset: labels\n")["assistant_only_loss"] is True
    assert "assistant_only_loss" not in settings("sft", "dataset: plain\n")
    assert "assistant_only_loss" not in settings("sft", "dataset: labels\ntrain_on_prompt: true\n")


def test_documents_of_pre_training_are_texts():
    assert settings("pt", "dataset: texts\n")["dataset_columns"] == {"text": "document"}


@pytest.mark.parametrize(
    ("name", "known"), [("dpo_mix_en", ("llamafactory/DPO-En-Zh-20k", "en")), ("mine", ("mine", None))]
)
def test_without_a_description_published_names_are_known(folder, name, known):
    (folder / "data/dataset_info.json").unlink()
    made = converted("dpo", f"dataset: {name}\n")
    found = {key: line.value for key, line in made.settings.items()}
    assert (found["dataset_name"], found.get("dataset_config")) == known
    assert ("Replace it" in made.settings["dataset_name"].why) == (name == "mine")


@pytest.mark.parametrize("text", ["[1, 2", '["a"]', '{"pairs": 3}'])
def test_a_broken_description_is_as_none(folder, text):
    (folder / "data/dataset_info.json").write_text(text)
    assert settings("dpo", "dataset: pairs\n")["dataset_name"] == "pairs"


def test_template_empty_writes_no_turns():
    assert settings("dpo", "dataset: pairs\ntemplate: empty\n")["apply_chat_template"] is False
    assert "apply_chat_template" not in settings("dpo", "dataset: labels\ntemplate: empty\n")  # messages need turns
