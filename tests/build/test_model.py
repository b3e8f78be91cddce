"""An adapter is put on the very weights it was trained on: of a model on the Hub, those of its revision."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import constants
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.conftest import pairs
from trl_ext.cli import main
from trl_ext.runs.load import open_model

NAME = "nobody/two-revisions"


@pytest.fixture
def on_the_hub(tiny_model):
    """Two revisions of a model in the cache, which is all of the Hub that is asked. Returns their folders."""
    home = Path(constants.HF_HUB_CACHE, f"models--{NAME.replace('/', '--')}")
    (home / "refs").mkdir(parents=True)
    folders = {}
    for revision, scale in (("main", 1.0), ("v2", 3.0)):
        folders[revision] = home / "snapshots" / f"commit-of-{revision}"
        (home / "refs" / revision).write_text(folders[revision].name)
        shutil.copytree(tiny_model, folders[revision])
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        with torch.no_grad():
            model.lm_head.weight.mul_(scale)
        model.save_pretrained(folders[revision])
    yield folders
    shutil.rmtree(home)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(4, 20)[None]).logits


def run(path: Path, **settings) -> Path:
    Dataset.from_list(pairs(8)).to_json(path.with_name("pairs.jsonl"))
    settings |= {"dataset_name": str(path.with_name("pairs.jsonl")), "max_steps": 1, "learning_rate": 0.01}
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
    home = path.with_suffix("")
    assert main(["run", str(path), "--output_dir", str(home)]) == 0
    return home


@pytest.mark.parametrize("is_said", [True, False], ids=["the adapter says it", "only the recipe says it"])
def test_an_adapter_goes_on_the_revision_it_was_trained_on(is_said, on_the_hub, tmp_path):
    first = run(tmp_path / "a.yaml", model_name_or_path=NAME, model_revision="v2", use_peft=True)
    config = first / "adapter_config.json"
    content = json.loads(config.read_text())
    assert 'revision="v2"' in (first / "README.md").read_text()
    assert content["revision"] == "v2" and content["base_model_name_or_path"] == NAME
    if not is_said:  # as earlier versions left it
        config.write_text(json.dumps(content | {"revision": None}))
    base = AutoModelForCausalLM.from_pretrained(on_the_hub["v2"], dtype="float32")
    opened = open_model(first, needs_reference=True)
    opened.add_reference()
    with opened.reference() as reference:
        assert torch.equal(logits(reference), logits(base))
    expected = logits(PeftModel.from_pretrained(base, first))
    assert torch.equal(logits(opened.model), expected)


def test_so_does_one_that_is_trained_further(on_the_hub, tmp_path):
    first = run(tmp_path / "a.yaml", model_name_or_path=NAME, model_revision="v2", use_peft=True)
    second = run(tmp_path / "b.yaml", model_name_or_path=str(first))
    assert json.loads((second / "adapter_config.json").read_text())["revision"] == "v2"
    assert 'revision="v2"' in (second / "README.md").read_text()
    base = AutoModelForCausalLM.from_pretrained(on_the_hub["v2"], dtype="float32")
    expected = logits(PeftModel.from_pretrained(base, second))
    assert torch.equal(logits(open_model(second).model), expected)


def test_a_model_trained_whole_is_compared_with_its_revision(on_the_hub, tmp_path):
    home = run(tmp_path / "a.yaml", model_name_or_path=NAME, model_revision="v2")
    opened = open_model(home, needs_reference=True)
    opened.add_reference()
    with opened.reference() as reference:
        assert torch.equal(logits(reference), logits(AutoModelForCausalLM.from_pretrained(on_the_hub["v2"])))
