"""The list of what we rely on inside other libraries is complete, and every entry has its file and its test."""

import ast
from pathlib import Path

import pytest

import trl_ext
from tests.seams import PUBLIC, SEAMS

PACKAGE, TESTS = Path(trl_ext.__file__).parent, Path(__file__).parent
LIBRARIES = {"trl", "transformers", "peft", "accelerate", "bitsandbytes"}


def inner_modules(file: Path) -> set[str]:
    """Modules below the top of a library that a file imports from, those that count as public apart."""
    imported = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    return {name for name in imported if "." in name and name.partition(".")[0] in LIBRARIES} - PUBLIC


def test_every_file_that_relies_on_internals_is_listed():
    found = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if inner_modules(file)}
    assert found - {seam.file for seam in SEAMS} == set()


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.file)
def test_an_entry_names_a_file_and_a_test_that_exist(seam):
    assert (PACKAGE / seam.file).is_file() and (TESTS / seam.test).is_file()
