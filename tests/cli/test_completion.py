"""Tab completion, asked as a shell asks: through the environment, in a new process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import trl_ext
from trl_ext import losses
from trl_ext.cli import VERBS, main
from trl_ext.recipe import names

pytest.importorskip("argcomplete")


def completions(line: str, folder) -> set[str]:
    """The words that the last word of a line can become."""
    answers = folder.parent / "answers"
    environment = os.environ | {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answers), "COMP_LINE": line, "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9", "PYTHONPATH": str(Path(trl_ext.__file__).parents[1]),
    }  # fmt: skip
    code = "import sys; from trl_ext.cli import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True, capture_output=True)
    return set(answers.read_text().split())


@pytest.fixture
def folder(tmp_path):
    work = tmp_path / "work"
    (work / "runs" / "demo-dpo").mkdir(parents=True)
    for name in ("mine.yaml", "other.yml", "notes.txt"):
        (work / name).touch()
    return work


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("trl-ext ", set(VERBS)),
        ("trl-ext va", {"validate"}),
        ("trl-ext run ", {*names.shipped(), "mine.yaml", "other.yml", "runs/"}),
        ("trl-ext run qwen3-8b", {"qwen3-8b-kto"}),
        ("trl-ext validate ./m", {"./mine.yaml"}),
        ("trl-ext eval runs/d", {"runs/demo-dpo/"}),
        ("trl-ext recipes smollm3", {"smollm3-3b-smoke"}),
        ("trl-ext losses simp", {"simper", "simpo"}),
        ("trl-ext advantages rei", {"reinforce_pp", "reinforce_pp_baseline"}),
        ("trl-ext run demo --advantage d", {"dr_grpo"}),
        ("trl-ext run demo --loss ap", {name for name in losses.available() if name.startswith("ap")}),
        ("trl-ext run demo --learning_ra", {"--learning_rate"}),
        ("trl-ext plan demo --packing ", {"true", "false"}),
        ("trl-ext completion z", {"zsh"}),
    ],
)
def test_completes(folder, line, expected):
    assert completions(line, folder) == expected


def test_the_script_is_of_argcomplete(capsys):
    assert main(["completion", "bash"]) == 0
    assert "complete " in (printed := capsys.readouterr().out) and "trl-ext" in printed
    assert main(["completion", "tcsh"]) == 2
    assert "allowed are bash, fish, powershell, zsh" in capsys.readouterr().err


def test_a_missing_package_is_asked_for_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert main(["completion", "bash"]) == 2
    assert (
        capsys.readouterr().err
        == "trl-ext: Tab completion needs the package argcomplete: `pip install argcomplete`.\n"
    )
