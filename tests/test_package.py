"""The names at the top of the package, and its one exception."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import trl_ext
from trl_ext.support.errors import UserError


def test_names_are_loaded_on_first_use():
    code = (
        "import sys, trl_ext.cli, trl_ext.recipe; trl_ext.losses.available();"
        "print(sorted({'torch', 'transformers', 'trl', 'datasets', 'peft', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", trl_ext.__all__)
def test_every_public_name_is_there(name):
    assert name in dir(trl_ext)
    assert getattr(trl_ext, name) is not None


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'PairedTrainer'"):
        trl_ext.PairedTrainer  # noqa: B018


def test_user_errors():
    assert str(UserError("Give a number.")) == "Give a number."
    assert str(UserError("Give a number.", about="r.yaml")) == "r.yaml: Give a number."
    several = UserError(["One.", "Two."], about="r.yaml")
    assert several.problems == ["One.", "Two."]
    assert str(several) == "2 problems in r.yaml:\n  1. One.\n  2. Two."


def test_the_file_tree_in_the_docs_names_every_package():
    text = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = text.partition("```\n")[2].partition("```")[0]
    root = Path(trl_ext.__file__).parent
    assert set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)) == {path.parent.name for path in root.glob("*/*.py")}
    modules = {path.name for path in root.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert modules <= set(re.findall(r"\w+\.py", tree))
