"""Names of tasks are found in the text of the harness's files. Here a package with a few files stands for the harness."""

import sys

import pytest

from tests.recipe.helpers import load, problem
from trl_ext.checks import known_tasks, task_names

FILES = {
    "arc/arc_easy.yaml": "tag:\n  - ai2_arc\n  - science # a comment\ntask: arc_easy # easy\ndataset_path: x\n",
    "arc/arc_challenge.yaml": "include: arc_easy.yaml\ntask: 'arc_challenge'\n",
    "mmlu/_template": '"tag": mmlu_tasks\n"group": mmlu_all\n',
    "mmlu/mmlu.yaml": "group: mmlu\ntask:\n  - mmlu_stem\n  - task: inner\nmetadata:\n  task: qq_inline\n",
    "mmlu/mmlu_stem.yaml": "tag: [listed, others]\ntask: mmlu_stem\n",
    "README.md": "task: readme\n",
    "large": f"task: large\n{'#' * known_tasks.LARGEST}",
}
DEFINED = {
    *("arc_easy", "ai2_arc", "science", "arc_challenge", "mmlu", "mmlu_all", "mmlu_tasks", "mmlu_stem", "listed"),
    "others",
}


@pytest.fixture(autouse=True)
def harness(tmp_path, monkeypatch):
    package = tmp_path / "site" / "harness_of_the_test"
    for name, text in FILES.items():
        file = package / "tasks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (package / "__init__.py").write_text("raise ImportError('validate must not import the harness')")
    monkeypatch.setattr(known_tasks, "PACKAGE", package.name)
    monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])
    monkeypatch.chdir(tmp_path)


def said(tasks) -> list[str]:
    return list(task_names.problems(tasks))


def test_what_is_defined():
    assert known_tasks.of_harness() == DEFINED


@pytest.mark.parametrize("given", ["arc_easy,mmlu", ["ai2_arc", "mmlu_*"], "listed", "arc_?asy"])
def test_names_and_patterns_that_exist(given):
    assert said(given) == []


def test_names_and_patterns_that_do_not_exist():
    assert said("arc_easy,arc_esay") == ["names arc_esay, and there is no such task: did you mean arc_easy?"]
    assert said("zzz_*,qq_inline") == [
        f"names {name}, and there is no such task: `lm_eval ls tasks` lists those of lm-evaluation-harness. A folder of task files "
        "can be given instead."
        for name in ("zzz_*", "qq_inline")
    ]


def test_tasks_of_the_users_own_folder_have_names_too(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text("task: mine\n")
    assert said("./own,mine") == []
    assert said("mine")[0].startswith("names mine, and there is no such task")


def test_a_harness_that_is_not_installed_knows_no_names(monkeypatch):
    monkeypatch.setattr(known_tasks, "PACKAGE", "no_such_package")
    assert said("anything") == []


def test_a_recipe_is_refused_with_the_line(tmp_path):
    text = "loss: dpo\nuse_peft: true\nevaluation:\n  tasks: [mmlu, arc_esay]\n"
    assert problem(tmp_path, text) == (
        "`evaluation.tasks` (line 6) names arc_esay, and there is no such task: did you mean arc_easy?"
    )
    assert load(tmp_path, text.replace("arc_esay", "arc_*")).evaluation["tasks"]
