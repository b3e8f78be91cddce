"""What `push_to_hub` uploads when a recipe has an `evaluation`: the model after training, then the card with the results."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml
from datasets import Dataset

from tests.conftest import pairs
from trl_ext.cli import main


class Hub:
    """Stands for the Hub: what each upload would send. Fails from the upload with a number on."""

    def __init__(self, monkeypatch, fails_from: int = 99) -> None:
        self.commits, self.fails_from = [], fails_from
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", self.create_repo)
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", self.upload_folder)

    def create_repo(self, repo_id, **_):
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, allow_patterns=None, ignore_patterns=None, **_):
        if len(self.commits) >= self.fails_from:
            raise huggingface_hub.errors.OfflineModeIsEnabled("[Errno 101] Network is unreachable")
        found = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        kept = huggingface_hub.utils.filter_repo_objects(
            found, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        card = Path(folder_path, "README.md")
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
        "Upload it with: hf upload small-dpo runs/small-dpo --exclude 'checkpoint-*'"
    ) in " ".join(capsys.readouterr().err.split())
    assert {"adapter_model.safetensors", "recipe.resolved.yaml"} <= {
        path.name for path in Path("runs/small-dpo").iterdir()
    }
