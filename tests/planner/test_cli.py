"""`trl-ext plan`: what is printed, what is imported, and how long it takes."""

import json
import subprocess
import sys

import pytest

from tests.planner.conftest import RECIPES
from trl_ext import cli

LLAMA = str(RECIPES / "llama-3.1-8b-ipo.yaml")


def test_a_plan_says_whether_it_fits(capsys):
    assert cli.main(["plan", LLAMA]) == 0
    printed = capsys.readouterr().out
    assert "llama-3.1-8b-ipo fits a card with 24 GiB" in printed
    for term in ("linear layers (4-bit)", "LM head", "optimizer", "stored activations", "CUDA context", "peak"):
        assert term in printed
    for card in ("RTX 3090", "RTX 4090", "RTX 5090", "RX 7900 XTX", "16 GB"):
        assert card in printed
    assert "lower bounds from the cards' published peak rates" in printed


def test_what_does_not_fit_says_what_to_add(capsys):
    assert cli.main(["plan", str(RECIPES / "zephyr-7b-dpo.yaml"), "--vram", "8"]) == 0
    assert "does not fit a card with 8 GiB" in (printed := capsys.readouterr().out)
    assert "To make it fit, add: --lora_r 16" in printed


@pytest.mark.parametrize("words", [["--vram", "16", "--json", LLAMA], [LLAMA, "--vram", "16", "--json"]])
def test_options_before_and_after_the_recipe(capsys, words):
    assert cli.main(["plan", *words]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["vram"] == 16 and planned["budget"] == 14.5


def test_keys_of_the_recipe_and_knowledge_of_the_data(capsys):
    words = ["--max_length", "512", "--examples", "64", "--tokens", "300", "--loss", "simpo", "--json"]
    assert cli.main(["plan", LLAMA, *words]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["longest"] == 1024 and planned["mean_tokens"] == 300
    assert planned["times"][0]["epoch"] == pytest.approx(2 * planned["times"][0]["step"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Give a recipe"),
        ([LLAMA, "--vram", "none"], "`--vram` is 'none': give GiB"),
        ([LLAMA, "--vram", "-3"], "`--vram`"),
        ([LLAMA, "--tokens", "0"], "`--tokens`"),
        ([LLAMA, "--lora_rank", "3"], "lora_rank"),
        (["--calibrate", "/nowhere"], "holds no plan.json"),
    ],
)
def test_mistakes_are_one_sentence(capsys, words, said):
    assert cli.main(["plan", *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.out == ""


def test_the_dry_run_agrees(capsys):
    assert cli.main(["plan", str(RECIPES / "demo.yaml"), "--exact", "--json"]) == 0
    exact = json.loads(capsys.readouterr().out)["exact"]
    assert exact["arithmetic"] == pytest.approx(exact["dry_run"], rel=0.03)


def test_calibrating_from_runs(capsys, tmp_path, shipped):
    from trl_ext.planner import calibration, plan

    planned = plan(shipped("demo"))
    (tmp_path / "plan.json").write_text(
        json.dumps(calibration.record(planned, planned.peak + 2**29)), encoding="utf-8"
    )
    assert cli.main(["plan", "--calibrate", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert (
        "Allocator factor 1.080 → 1.080, CUDA context 0.60 → 1.10 GiB" in printed
        and str(calibration.path()) in printed
    )
    assert "GiB now (+0.0%)" in printed


def test_a_plan_imports_no_trainer():
    code = (
        "import sys; from trl_ext.cli import main; code = main(sys.argv[1:]);"
        "print([m for m in ('trl', 'peft', 'bitsandbytes', 'datasets') if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, "plan", LLAMA], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
