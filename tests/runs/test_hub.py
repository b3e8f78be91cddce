"""What `push_to_hub` uploads when a recipe has an `evaluation`: the model after training, then the card with the results."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml
from datasets import Dataset

from tests.conftest import pairs
from trl_ext import recipe as recipes
from trl_ext.cli import main
from trl_ext.runs import hub as uploads
from trl_ext.support.errors import UserError


class Hub:
    """Stands for the Hub: what each upload would send. Fails from the upload with a number on."""

    def __init__(self, monkeypatch, fails_from: int = 99) -> None:
        self.commits, self.places, self.fails_from = [], [], fails_from
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", self.create_repo)
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", self.upload_folder)

    def create_repo(self, repo_id, **_):
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, path_in_repo=".", allow_patterns=None, ignore_patterns=None, **_):
        if len(self.commits) >= self.fails_from:
            raise huggingface_hub.errors.OfflineModeIsEnabled("[Errno 101] Network is unreachable")
        found = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        kept = huggingface_hub.utils.filter_repo_objects(
            found, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        card = Path(folder_path, "README.md")
        self.places.append(path_in_repo)
        self.commits.append((repo_id, {*kept}, card.read_text() if card.exists() else ""))


@pytest.fixture
def recipe(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Dataset.from_list(pairs(8)).to_json("pairs.jsonl")
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": f"the {i}"}) + "\n" for i in range(3)))
    Path("judge.py").write_text("def longer(completions, **kwargs):\n    return [len(str(c)) for c in completions]\n")
    settings = {
        "model_name_or_path": tiny_model, "dataset_name": "pairs.jsonl", "use_peft": True, "lora_r": 4, "max_steps": 1,
        "lora_target_modules": "all-linear", "per_device_train_batch_size": 4, "max_length": 32, "save_strategy": "no",
        "disable_tqdm": True, "loss": "dpo", "push_to_hub": True, "hub_token": "hf_stub", "evaluation": {
            "judge": "judge.py", "prompts": "prompts.jsonl", "samples": 3, "max_new_tokens": 4,
        },
    }  # fmt: skip
    Path("small.yaml").write_text(yaml.safe_dump(settings))
    return "small.yaml"


def test_the_card_on_the_hub_has_the_results(recipe, monkeypatch):
    hub = Hub(monkeypatch)
    assert main(["run", recipe]) == 0
    *of_model, (repo, files, card) = hub.commits
    assert all("adapter_model.safetensors" in files and "## Results" not in card for _, files, card in of_model)
    assert of_model and repo == "me/small-dpo"
    assert files == {"README.md", "report.html", "judged-longer.json"}
    assert "## Results" in card and "longer" in card and "### Samples" in card


@pytest.mark.parametrize(("uploads", "what"), [(0, "it"), (2, "the results of its evaluation")])
def test_a_hub_that_cannot_be_reached(uploads, what, recipe, monkeypatch, capsys):
    Hub(monkeypatch, fails_from=uploads)
    assert main(["run", recipe]) == 2
    assert (
        f"The run in runs/small-dpo is complete, but {what} could not be uploaded to the Hub: [Errno 101] Network is unreachable. "
        "Upload it with: hf upload small-dpo runs/small-dpo --exclude 'checkpoint-*' --exclude 'samples-*'"
    ) in " ".join(capsys.readouterr().err.split())
    assert {"adapter_model.safetensors", "recipe.resolved.yaml"} <= {
        path.name for path in Path("runs/small-dpo").iterdir()
    }


TRAINED = {"README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json"}
STATE = {
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
    "trl_ext_checkpoint.json",
}


@pytest.fixture
def exported(tmp_path):
    """A run with a checkpoint, and files exported from each."""
    run = tmp_path / "mine"
    for folder in (run, run / "checkpoint-80"):
        (folder / "gguf").mkdir(parents=True)
        for name in (*TRAINED, *STATE, "gguf/x.gguf", "gguf/Modelfile"):
            (folder / name).write_text("")
    for name in ("samples-0a1b.jsonl", "judged-a.json", "report.html", "run.log", "metrics.jsonl", ".env"):
        (run / name).write_text("")
    (run / "small.yaml").write_text("model_name_or_path: embedded\ndataset_name: embedded\n")
    recipes.load(run / "small.yaml").dump(run / "recipe.resolved.yaml")
    return run


def test_an_export_publishes_neither_answers_nor_the_state_of_training(exported, monkeypatch):
    hub, recipe = Hub(monkeypatch), recipes.load(exported / "recipe.resolved.yaml")
    results = {"judged-a.json", "report.html", "recipe.resolved.yaml"}
    files = {"x.gguf", "Modelfile"}
    assert uploads.upload_export(recipe, exported, exported / "gguf") == "me/mine"
    assert [sent for _, sent, _ in hub.commits] == [TRAINED | results, files] and hub.places == [".", "gguf"]

    hub, checkpoint = Hub(monkeypatch), exported / "checkpoint-80"
    assert uploads.upload_export(recipe, checkpoint, checkpoint / "gguf") == "me/mine"
    assert [sent for _, sent, _ in hub.commits] == [TRAINED, {"recipe.resolved.yaml"}, files]
    assert hub.places == ["checkpoint-80", "checkpoint-80", "checkpoint-80/gguf"]

    Hub(monkeypatch, fails_from=0)
    with pytest.raises(
        UserError, match=r"hf upload mine \S+/checkpoint-80 checkpoint-80 --include adapter_config.json"
    ):
        uploads.upload_export(recipe, checkpoint, checkpoint / "gguf")
