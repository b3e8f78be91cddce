"""Recipes by name: what comes with trl-ext, local files first, and "did you mean"."""

import os
from pathlib import Path

import pytest

from tests.recipe.stand_in import load
from trl_ext import recipe
from trl_ext.cli import main
from trl_ext.recipe import names, shipped
from trl_ext.runs import finished
from trl_ext.support.errors import UserError
from trl_ext.support.paths import is_path

ROOT = Path(__file__).parents[2]
LOCAL = "model_name_or_path: embedded\ndataset_name: embedded\nloss: ipo\n"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_folder_has_its_name(elsewhere, path):
    assert names.find(path.stem) == path
    assert names.word(names.find(path.stem)) == path.stem


def test_in_a_checkout_the_path_is_short(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert names.find("demo") == Path("recipes/demo.yaml")
    assert names.word(names.find("demo")) == "recipes/demo.yaml"


@pytest.mark.parametrize("file", ["demo", "demo.yaml", "demo.yml"])
def test_a_local_file_wins_and_this_is_reported(elsewhere, file):
    (elsewhere / file).write_text(LOCAL)
    loaded = recipe.load("demo")
    assert (loaded.loss, loaded.path) == ("ipo", Path(file))
    (note,) = loaded.notes
    assert note.startswith(f"`demo` is the local file {file}.")


def test_a_local_file_of_another_name_needs_no_ending_and_no_note(elsewhere):
    (elsewhere / "mine.yaml").write_text(LOCAL)
    assert recipe.load("mine").notes == [] and recipe.load("mine").loss == "ipo"


def test_a_folder_of_that_name_is_no_recipe(elsewhere):
    (elsewhere / "demo").mkdir()
    assert recipe.load("demo").loss == "dpo"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("dmeo", "There is no recipe dmeo. Did you mean demo"),
        ("qwen3-8b-kot", "Did you mean qwen3-8b-kto, qwen3-4b-ppo or qwen3-4b-grpo? `trl-ext recipes` lists"),
        ("demo.yaml", "There is no file demo.yaml. Did you mean the recipe demo, which comes with trl-ext?"),
        ("recipes/demo.yaml", "Did you mean the recipe demo, which comes with trl-ext? Give its name alone."),
        ("frobnicate", "There is no recipe frobnicate. Give a YAML file or a name that `trl-ext recipes` lists."),
    ],
)
def test_a_misspelt_name(elsewhere, given, sentence):
    with pytest.raises(UserError) as error:
        recipe.load(given)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "dmeo"],
        ["validate", "dmeo"],
        ["data", "dmeo"],
        ["plan", "dmeo"],
        ["compare", "dmeo", "--losses", "dpo"],
        ["eval", "dmeo"],
        ["chat", "dmeo", "--prompt", "x"],
        ["merge", "dmeo", "--output", "out"],
        ["kl", "dmeo"],
        ["recipes", "dmeo"],
    ],
    ids=lambda words: words[0],
)
def test_every_verb_that_takes_a_recipe_names_the_nearest(elsewhere, capsys, words):
    assert main(words) == 2
    assert "id you mean demo" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_the_doctor_names_the_nearest(elsewhere):
    from trl_ext.doctor import recipe as of_recipe

    _, (finding,) = of_recipe.read("dmeo", {})
    assert "Did you mean demo" in finding.found


def test_a_run_is_found_by_the_name_of_its_recipe(elsewhere):
    with pytest.raises(UserError, match=r"There is no finished run of demo\. Train one with `trl-ext run demo`\."):
        finished.directory_of(Path("demo"))
    run = elsewhere / "runs" / "demo-dpo"
    run.mkdir(parents=True)
    recipe.load("demo").dump(run / "recipe.resolved.yaml")
    (run / "adapter_config.json").write_text("{}")
    assert finished.directory_of(Path("demo")) == Path("runs/demo-dpo")
    whole = elsewhere / "runs" / "demo-dpo-2"  # trained all weights, later
    whole.mkdir()
    recipe.load("demo").dump(whole / "recipe.resolved.yaml")
    (whole / "checkpoint-2").mkdir()
    (whole / "checkpoint-2" / "config.json").write_text("{}")
    assert finished.directory_of(Path("demo")) == Path("runs/demo-dpo")  # it has not finished
    (whole / "config.json").write_text("{}")
    assert finished.directory_of(Path("demo")) == Path("runs/demo-dpo-2")
    os.utime(run / "adapter_config.json", ns=(2**62, 2**62))
    assert finished.directory_of(Path("demo")) == Path("runs/demo-dpo")


def test_a_name_where_a_verb_belongs(capsys):
    assert main(["demo", "--loss", "ipo"]) == 2
    assert "`trl-ext run demo --loss ipo`" in capsys.readouterr().err
    assert main(["run", "--loss", "ipo", "demo"]) == 2
    assert "The recipe comes first: `trl-ext run demo --loss ipo`." in capsys.readouterr().err


def test_messages_of_an_installed_package_name_the_recipe(elsewhere, monkeypatch):
    loaded = recipe.load("qwen3-4b-ppo")
    assert "train it first with `trl-ext run qwen3-4b-reward`" in loaded.awaits


def test_the_table_has_every_recipe(capsys):
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line for line in printed.splitlines() if line.strip() and line.startswith(" ")}
    for path in (ROOT / "recipes").glob("*.yaml"):
        loaded = load(path)
        model = loaded.get("model_name_or_path")
        assert loaded.title in rows[path.stem] and (Path(model).name if is_path(model) else model) in rows[path.stem]
    assert (
        "CPU" in rows["demo"] and "not measured yet" in rows["zephyr-7b-dpo"] and "16 GB" in rows["qwen3-1.7b-hh-16gb"]
    )


def test_what_is_measured_is_read_from_the_header():
    measured = {found.name for found in shipped.every() if found.is_measured}
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert (path.stem in measured) == ("not measured yet" not in path.read_text(encoding="utf-8"))


def test_a_recipe_is_printed_as_it_is(elsewhere, capsys):
    assert main(["recipes", "demo-ppo"]) == 0
    assert capsys.readouterr().out == (ROOT / "recipes" / "demo-ppo.yaml").read_text(encoding="utf-8")
