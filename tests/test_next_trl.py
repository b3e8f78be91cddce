"""The list for TRL's next release fits the installed TRL and the bound in pyproject.toml; another release fails here first."""

import ast
import tomllib
from pathlib import Path

import pytest
import trl
from packaging.requirements import Requirement
from packaging.version import Version

import trl_ext
from tests.next_trl import ANNOUNCED, PARTS, WRITTEN_FOR

OURS, THEIRS, TESTS = Path(trl_ext.__file__).parent, Path(trl.__file__).parent, Path(__file__).parent
PAGE = (TESTS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
TRAINERS = [
    THEIRS / f"trainer/{kind}_{part}.py"
    for kind in ("base", "dpo", "kto", "sft", "reward", "rloo", "grpo")
    for part in ("config", "trainer")
]


def warnings_of_the_future(file: Path) -> list[str]:
    """Texts of the calls in a file that pass FutureWarning."""
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [
        call.args[0].value
        for call in calls
        if any(isinstance(given, ast.Name) and given.id == "FutureWarning" for given in call.args)
    ]


def test_it_is_written_for_the_release_that_is_not_yet_admitted():
    required = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    trl_bound = next(Requirement(line).specifier for line in required if Requirement(line).name == "trl")
    assert [bound.version for bound in trl_bound if bound.operator == "<"] == [WRITTEN_FOR]
    assert Version(trl.__version__) < Version(WRITTEN_FOR), (
        f"Go through the list in CONTRIBUTING.md for {trl.__version__}"
    )
    assert f"### When TRL {WRITTEN_FOR} comes" in PAGE


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.file)
def test_every_part_exists_on_both_sides(part):
    tree = ast.parse((THEIRS / part.file).read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert set(part.names) - defined == set()
    assert (OURS / part.ours).exists() and all((TESTS / test).is_file() for test in part.tests)


def test_every_deprecation_that_trl_announces_is_listed_and_no_other():
    texts = [text for file in TRAINERS for text in warnings_of_the_future(file)]
    assert texts
    assert [text for text in texts if not any(announced.name in text for announced in ANNOUNCED)] == []
    assert [announced.name for announced in ANNOUNCED if not any(announced.name in text for text in texts)] == []
