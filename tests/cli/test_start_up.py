"""Which libraries the verbs that do not train import: start-up is most of what they take."""

import json
import subprocess
import sys

import pytest

from tests import finished_runs

COMPILER = "torch._inductor.compile_fx"


def modules_after(*words: str) -> set[str]:
    """Every module that a new process has imported once it has carried out a command."""
    code = (
        "import json, sys; sys.argv[0] = 'trl-ext'; from trl_ext.cli import main; code = main();"
        "print('# ' + json.dumps([code, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.rpartition("# ")[2])
    assert code == 0
    return set(modules)


def trainers_in(modules: set[str]) -> set[str]:
    return {name for name in modules if name.startswith("trl_ext.trainers") and name.endswith(".trainer")}


def test_chat(tmp_path):
    run = finished_runs.leave(tmp_path / "run", "embedded", scale=0.3)
    modules = modules_after("chat", run, "--prompt", "How was the hotel?", "--max_new_tokens", "2")
    assert "peft" in modules and COMPILER not in modules
    assert not trainers_in(modules) and not {"trl.trainer.utils", "pandas", "datasets"} & modules


@pytest.mark.parametrize("words", [("data", "demo"), ("plan", "demo"), ("plan", "llama-3.1-8b-ipo")], ids=" ".join)
def test_verbs_about_a_recipe(words, tmp_path):
    modules = modules_after(*words, *(["--output_dir", tmp_path] if words[0] == "data" else []))
    assert "torch" in modules and COMPILER not in modules and not trainers_in(modules)
    # A plan reads data that is on this computer, and imports nothing for other data.
    assert words[1] == "demo" or not {"trl", "peft", "datasets"} & modules
