"""A reward adapter's folder, judged without torch, by hand-written files and by what PEFT really leaves."""

import json
import os
import struct
import subprocess
import sys

import pytest

from tests.recipe.helpers import problem, write
from trl_ext import demo, recipe
from trl_ext.model_files import reward as reward_folder
from trl_ext.model_files.weights import header

SCORE = "base_model.model.score.weight"
BASE = """\
trainer: ppo
model_name_or_path: {model}
dataset_name: embedded
use_peft: true
reward_adapter: {folder}
"""


def make(folder, shapes=None, **config):
    """An adapter's folder; the weights are only a header that promises zeros."""
    folder.mkdir(parents=True)
    config = {"base_model_name_or_path": "org/base", "task_type": "SEQ_CLS", "peft_type": "LORA", **config}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    shapes = {SCORE: [1, 64], "base_model.model.layers.0.q_proj.lora_A.weight": [4, 64]} if shapes is None else shapes
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return str(folder)


def test_a_reward_adapter_of_the_base(tmp_path):
    folder = make(tmp_path / "reward")
    assert reward_folder.problem(folder) is None and reward_folder.problem(folder, "org/base") is None
    assert reward_folder.problem(make(tmp_path / "untyped", task_type=None), "org/base") is None
    read = recipe.load(write(tmp_path, "", BASE.format(model="org/base", folder=folder)))
    assert read.get("reward_adapter") == folder


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"base_model_name_or_path": "org/other"},
            "which was trained on org/other, but the policy's base is org/base. An",
        ),
        ({"task_type": "CAUSAL_LM"}, "which is an adapter for CAUSAL_LM, but a reward adapter is for SEQ_CLS"),
        ({"shapes": {"layers.0.lora_A.weight": [4, 64]}}, "which has no head with one output (score.weight of shape"),
        ({"shapes": {SCORE: [3, 64]}}, "which has no head with one output"),
        ({"shapes": {SCORE: [1, 64], "x.classifier.weight": [1, 64]}}, "which has no head with one output"),
    ],
)
def test_validate_says_what_is_wrong_in_one_sentence(tmp_path, changes, sentence):
    folder = make(tmp_path / "reward", **changes)
    found = problem(tmp_path, "", BASE.format(model="org/base", folder=folder))
    assert found.startswith(f"`reward_adapter` (line 5) is {folder}, {sentence}")


def test_a_folder_that_is_not_whole(tmp_path):
    folder = make(tmp_path / "reward")
    weights = tmp_path / "reward" / "adapter_model.safetensors"
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n", weights.read_bytes()[:20]):
        weights.write_bytes(content)
        assert "which cannot be read (adapter_model.safetensors is not a safetensors file)" in reward_folder.problem(
            folder
        )
    weights.write_bytes(struct.pack("<Q", 3) + b"{a}")
    assert "which cannot be read" in reward_folder.problem(folder)
    weights.unlink()
    assert reward_folder.problem(folder).startswith("which holds no adapter_model.safetensors. Give the run directory")
    assert reward_folder.problem(str(tmp_path / "x")).startswith(
        "which holds no adapter_config.json and no adapter_model"
    )


def test_bases_are_compared_as_the_places_they_are(tmp_path, monkeypatch):
    """Relative, absolute and linked paths, the embedded model, and the base of an adapter that is continued."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(base)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = make(tmp_path / "reward", base_model_name_or_path=str(base))
    trained = {"task_type": "CAUSAL_LM", "shapes": {}}
    policy = make(tmp_path / "policy", base_model_name_or_path=os.path.join("..", tmp_path.name, "base"), **trained)
    for model in ("base", "./base/", str(base), "link", "~/base", policy):
        recipe.load(write(tmp_path, "", BASE.format(model=model, folder=folder)))
    other = make(tmp_path / "other", base_model_name_or_path="org/other", **trained)
    sentence = problem(tmp_path, "", BASE.format(model=other, folder=folder))
    assert f"which was trained on {base}, but the policy's base is org/other" in sentence

    embedded = make(tmp_path / "embedded-reward", base_model_name_or_path=str(demo.MODEL))
    recipe.load(write(tmp_path, "", BASE.format(model="embedded", folder=embedded)))
    assert str(demo.MODEL) in problem(tmp_path, "", BASE.format(model="embedded", folder=folder))


def test_what_peft_leaves_is_read_as_safetensors_reads_it(tiny_model, tmp_path):
    from peft import get_peft_model
    from safetensors import safe_open
    from transformers import AutoModelForSequenceClassification

    from tests.trainers.helpers import lora

    classifier = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    adapter = lora(task_type="SEQ_CLS", modules_to_save=["score"])
    get_peft_model(classifier, adapter).save_pretrained(tmp_path / "reward")
    assert reward_folder.problem(str(tmp_path / "reward"), tiny_model) is None
    with safe_open(tmp_path / "reward" / "adapter_model.safetensors", framework="pt") as weights:
        expected = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    tensors = header(tmp_path / "reward" / "adapter_model.safetensors").tensors
    assert {name: tensor["shape"] for name, tensor in tensors.items()} == expected


def test_nothing_heavy_is_imported(tmp_path):
    path = write(tmp_path, "", BASE.format(model="org/base", folder=make(tmp_path / "reward")))
    code = (
        "import sys; from trl_ext import recipe; recipe.load(sys.argv[1]);"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'safetensors', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
