"""The wheel holds the recipes, and the package finds them there."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = {path.name: path.read_bytes() for path in (ROOT / "recipes").glob("*.yaml")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the recipes and the modules without large files, built by the backend that pyproject.toml names."""
    pytest.importorskip("setuptools", minversion="77")  # as in pyproject.toml
    project = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "recipes", project / "recipes")
    shutil.copytree(
        ROOT / "trl_ext", project / "trl_ext", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
    )
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, "dist"], cwd=project, check=True, capture_output=True)
    (built,) = (project / "dist").glob("*.whl")
    return built


def test_holds_every_recipe_and_no_other_package(wheel):
    with zipfile.ZipFile(wheel) as files:
        found = {Path(name).name: files.read(name) for name in files.namelist() if name.startswith("trl_ext/recipes/")}
        packages = {name.split("/")[0] for name in files.namelist() if ".dist-info/" not in name}
    assert found == RECIPES
    assert packages == {"trl_ext"}


def test_holds_the_template_of_a_judge(wheel):
    with zipfile.ZipFile(wheel) as files:
        assert files.read("trl_ext/judging/pairwise.txt") == (ROOT / "trl_ext/judging/pairwise.txt").read_bytes()


def test_holds_the_templates_of_every_page(wheel):
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "trl_ext").rglob("*.j2")}
    with zipfile.ZipFile(wheel) as files:
        assert templates and templates <= set(files.namelist())


def test_an_installed_package_finds_a_recipe_by_its_name(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "site-packages")
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import trl_ext; from trl_ext import recipe;"
        "print(trl_ext.__file__); found = recipe.load('demo'); print(found.path, found.word, found.name, found.loss)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path / "site-packages")],
        cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=True,
    )  # fmt: skip
    package, found = done.stdout.splitlines()
    assert package.startswith(str(tmp_path))
    assert found == f"{tmp_path}/site-packages/trl_ext/recipes/demo.yaml demo demo dpo"


def test_an_installed_recipe_that_reads_files_of_the_repository_says_where_they_are(wheel, tmp_path):
    reads_them = [name for name, text in RECIPES.items() if b"benchmarks/real/" in text]
    if not reads_them:
        pytest.skip("no recipe reads files of the repository")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "site-packages")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from trl_ext.cli import main; sys.exit(main(sys.argv[2:]))"
    words = [sys.executable, "-I", "-c", code, str(tmp_path / "site-packages"), "validate", Path(reads_them[0]).stem]
    done = subprocess.run(words, cwd=tmp_path, env={"HOME": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    assert f"is {tmp_path}/.cache/" in said and "is benchmarks/real/" in said
    assert f"(it is relative to {tmp_path})" in said
    assert "First run `make real-model` in a checkout of trl-ext (" in said
    assert said.endswith("in a checkout of trl-ext: run the recipe there.")
