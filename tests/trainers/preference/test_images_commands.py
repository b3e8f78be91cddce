"""Commands on preference data with images: `run`, and `eval` of the finished run."""

import json

import pytest
import torch
import yaml

from tests.trainers.preference.images import image_pairs, labelled_images
from trl_ext.cli import main
from trl_ext.evaluation.rows import Rows
from trl_ext.evaluation.scores import scorer
from trl_ext.runs.load import open_model


@pytest.fixture(scope="module")
def finished_run(tiny_vlm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    image_pairs(16).save_to_disk(folder / "pictures")
    recipe = {
        "model_name_or_path": tiny_vlm,
        "dataset_name": str(folder / "pictures"),
        "loss": "dpo",
        "use_peft": True,
        "lora_target_modules": r".*language_model.*\.(q_proj|v_proj)",
        "max_steps": 2,
        "learning_rate": 0.01,
        "per_device_train_batch_size": 4,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    (folder / "pictures.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", str(folder / "pictures.yaml"), "--output_dir", str(folder / "out")]) == 0
    return folder / "out"


def test_a_recipe_trains_on_images(finished_run):
    log = (finished_run / "run.log").read_text()
    assert "= 0.6931, the known value" in log
    assert "rows: packed, with the prompt of a pair and its images once; attention segment by segment" in log
    assert (finished_run / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("rows", [image_pairs, labelled_images])
def test_images_are_evaluated(rows, finished_run):
    """Log-probabilities of policy and reference against those of full logits, one completion at a time."""
    opened, data, is_paired = open_model(finished_run, needs_reference=True), rows(6), rows is image_pairs
    made = scorer(opened, Rows(data, is_paired, "pictures", []))
    scored = list(made.scored(made.train_dataset))
    assert len(scored) == 6
    for row, found in zip(data, scored, strict=True):
        answers = [row["chosen"], row["rejected"]] if is_paired else [row["completion"]]
        assert len(found) == len(answers)
        for answer, one in zip(answers, found, strict=True):
            prompt = f"USER: <image> {row['prompt'][-1]['content']} ASSISTANT: "
            texts = [prompt, f"{prompt}{answer[-1]['content']} </s>"]
            start, inputs = (opened.processor(images=row["images"], text=text, return_tensors="pt") for text in texts)
            with torch.no_grad():
                policy = completion_logps(opened.model, inputs, start)
                with opened.model.disable_adapter():
                    reference = completion_logps(opened.model, inputs, start)
            assert torch.allclose(torch.from_numpy(one.policy), policy, atol=1e-5)
            assert torch.allclose(torch.from_numpy(one.reference), reference, atol=1e-5)
            assert not torch.allclose(policy, reference, atol=1e-5)


def completion_logps(model, inputs, start) -> torch.Tensor:
    logits = model(**inputs).logits[0, :-1].log_softmax(-1)
    return logits.gather(1, inputs["input_ids"][0, 1:, None]).squeeze(1)[start["input_ids"].shape[1] - 1 :]


def test_a_run_on_images_is_evaluated_by_its_command(finished_run, monkeypatch, capsys):
    monkeypatch.chdir(finished_run.parent)
    assert main(["eval", str(finished_run), "--split", "train", "--limit", "6", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["data"]["pairs"] == 6 and "sampled" not in record
