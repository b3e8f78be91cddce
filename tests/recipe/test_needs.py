"""What has to be done before a recipe whose files or folders are missing."""

from pathlib import Path

import pytest

from trl_ext import recipe
from trl_ext.recipe import names
from trl_ext.support.errors import UserError

ROOT = Path(__file__).parents[2]
HEAD = """# My recipe (mine).
# make my-model          (once: an hour)
# pip install my-rewards
# trl-ext run mine
# trl-ext run mine --loss ipo
"""
SETTINGS = "model_name_or_path: ~/none/model\ndataset_name: embedded\nuse_peft: true\n"


def said(path: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        recipe.load(path)
    return str(caught.value)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home without models, and another folder that the commands run in."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_commands_above_the_own_one_are_said_where_a_folder_is_missing(home):
    Path("mine.yaml").write_text(HEAD + SETTINGS)
    assert said("mine.yaml") == (
        f"mine.yaml: `model_name_or_path` (line 6) is {home}/none/model, and there is no folder {home}/none: check the path. "
        "First run `make my-model` (once: an hour). First run `pip install my-rewards`."
    )


@pytest.mark.parametrize(
    "head", ["", "# make it small (a remark)\n", "# Notes on make.\n# trl-ext run mine\n# make later\n"]
)
def test_without_such_commands_nothing_is_added(home, head):
    Path("mine.yaml").write_text(head + SETTINGS)
    assert said("mine.yaml").endswith(f"there is no folder {home}/none: check the path.")


def test_they_are_not_said_of_other_problems(home):
    (home / "none" / "model").mkdir(parents=True)
    (home / "none" / "model" / "config.json").write_text("{}")
    Path("mine.yaml").write_text(HEAD + SETTINGS + "learning_rate: -1\n")
    assert "learning_rate" in said("mine.yaml") and "First run" not in said("mine.yaml")


@pytest.fixture
def shipped(home, monkeypatch) -> Path:
    """A checkout with one recipe, which reads files of it."""
    checkout = home / "checkout"
    (checkout / "recipes").mkdir(parents=True)
    (checkout / "Makefile").touch()
    (checkout / "recipes" / "short.yaml").write_text(
        HEAD
        + SETTINGS.replace("embedded", "data/pairs.jsonl")
        + "trainer: ppo\nreward_funcs: [data/rewards.py:short]\n"
    )
    monkeypatch.setattr(names, "FOLDER", checkout / "recipes")
    return checkout


def test_files_of_the_checkout_are_found_in_its_folder(shipped, home):
    assert said("short").endswith(
        f"First run `make my-model` in {shipped} (once: an hour). First run `pip install my-rewards` in {shipped}. "
        f"data/pairs.jsonl and data/rewards.py are in {shipped}: run the recipe there."
    )
    (home / "none" / "model").mkdir(parents=True)
    (home / "none" / "model" / "config.json").write_text("{}")
    assert "First run" not in said("short")
    assert said("short").endswith(f"data/pairs.jsonl and data/rewards.py are in {shipped}: run the recipe there.")


def test_an_installed_package_names_a_checkout(shipped):
    (shipped / "Makefile").unlink()
    assert "First run `make my-model` in a checkout of trl-ext (once: an hour)." in said("short")
    assert said("short").endswith("data/rewards.py are in a checkout of trl-ext: run the recipe there.")


def test_in_the_checkout_no_folder_is_named(shipped, monkeypatch):
    monkeypatch.chdir(shipped)
    assert said("short").endswith("First run `make my-model` (once: an hour). First run `pip install my-rewards`.")
    (shipped.parent / "none" / "model").mkdir(parents=True)
    (shipped.parent / "none" / "model" / "config.json").write_text("{}")
    assert "data/pairs.jsonl" in said("short") and "First run" not in said("short")  # no command makes its own files


def test_a_relative_path_alone_is_relative_to_a_folder(home):
    Path("mine.yaml").write_text(SETTINGS.replace("embedded", "none/pairs.jsonl"))
    assert f"there is no folder none: check the path (it is relative to {Path.cwd()})." in said("mine.yaml")
    assert f"there is no folder {home}/none: check the path.\n" in said("mine.yaml")


def test_the_shape_that_stands_in_for_an_absent_model_is_its_shape():
    """Compared with the folder itself, where it is."""
    import json

    from benchmarks.real.model import folder
    from tests.recipe.stand_in import FOLDER

    if not (folder() / "config.json").is_file():
        pytest.skip("SmolLM2-135M-Instruct is not here: `make real-model` fetches it")
    real, ours = (json.loads((place / "config.json").read_text()) for place in (folder(), FOLDER))
    assert {key: real[key] for key in ours} == ours
