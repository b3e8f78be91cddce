"""`trl-ext kl`: tables, picture, JSON, and what it says to wrong input."""

import json
import shutil

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import pairs
from trl_ext import recipe
from trl_ext.cli import main
from trl_ext.report import kl_audit

PNG = b"\x89PNG"


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch):
    """What a finished run on plain pairs leaves, with an adapter that is away from its base."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "runs" / "small-dpo"
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(directory)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs(16))))
    settings = {
        "model_name_or_path": tiny_model,
        "dataset_name": str(tmp_path / "pairs.jsonl"),
        "use_peft": True,
        "load_in_4bit": True,
        "loss": "dpo",
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    recipe.load("small.yaml").dump(directory / "recipe.resolved.yaml")
    return directory


def test_the_exact_audit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["kl"]) == 0
    printed = capsys.readouterr().out
    assert f"KL {kl_audit.exact().kl:.2f} nats per completion" in printed
    for cell in kl_audit.CELLS:
        assert " ".join(cell) in printed
    line = next(line for line in printed.splitlines() if line.startswith(" k2 loss sequence"))
    assert line.split()[:7] == ["k2", "loss", "sequence", "-31", "%", "2.1", "1.00"]
    assert "picture  kl-audit.png" in printed
    assert (tmp_path / "kl-audit.png").read_bytes().startswith(PNG)


def test_json_is_all_there_is(tmp_path, capsys):
    picture = tmp_path / "new" / "audit"
    assert main(["kl", "--json", "--output", str(picture)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["picture"] == f"{picture}.png" and picture.with_suffix(".png").exists()
    rows = facts["exact"]["rows"]
    assert len(rows) == 12 and {
        row["cosine"] for row in rows if (row["estimator"], row["placement"]) == ("k1", "loss")
    } == {None}


def test_a_run_is_sampled(run, tmp_path, capsys):
    assert main(["kl", str(run), "--n", "64", "--max_new_tokens", "5"]) == 0
    printed = capsys.readouterr().out
    assert "sampling 64 completions" in printed and f"{run}:KL" in "".join(printed.split())  # however lines are broken
    assert printed.count("k2 loss sequence") == 2
    assert (run / "kl-audit.png").read_bytes().startswith(PNG)

    # a recipe stands for its latest run; a sample is the same for the same seed
    audits = []
    for given in (str(run), "small.yaml"):
        assert main(["kl", given, "--n", "64", "--max_new_tokens", "5", "--json"]) == 0
        audits.append(json.loads(capsys.readouterr().out)["sampled"])
    assert audits[0] == audits[1] and audits[0]["n"] == 64


def test_a_recipe_without_a_run_gets_the_exact_audit(run, capsys):
    shutil.copy("small.yaml", "all.yaml")  # the run there is was not of this one
    assert main(["kl", "all.yaml"]) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "small language, exactly" in printed and "No finished run of all.yaml" in printed


def test_wrong_input(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "adapter_config.json").write_text("{}")
    for words, message in (
        (["nowhere"], "nowhere does not exist: name a recipe (a YAML file) or the directory of a run"),
        ([str(tmp_path)], "holds no adapter (adapter_config.json)"),
        ([str(tmp_path / "elsewhere")], "was not left by `trl-ext run`"),
        (["--n", "10"], "`--n` is 10: gradients are not told from noise with fewer than 64"),
        (["--max_new_tokens", "0"], "give a number from 1 up"),
    ):
        assert main(["kl", *words]) == 2
        assert message in capsys.readouterr().err
