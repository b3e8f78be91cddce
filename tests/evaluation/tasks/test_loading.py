"""Names, folders and files of tasks."""

import pytest

pytest.importorskip("lm_eval", reason="needs the extra `tasks`")

from lm_eval.tasks import TaskManager

from benchmarks.real import evaluation
from tests.evaluation.tasks import files
from trl_ext.checks import known_tasks
from trl_ext.evaluation.tasks.choice import TaskChoice
from trl_ext.evaluation.tasks.evaluate import load


def rows(*names, **settings):
    return load(TaskChoice(tuple(map(str, names)), **settings), print)


def test_a_folder_has_the_rows_of_its_files(tmp_path):
    folder = files.write(tmp_path / "tasks")
    assert sorted(row.name for row in rows(folder)) == ["choose", "read", "write"]
    [row] = rows(folder / "write.yaml")
    assert row.name == "write" and row.group is None and len(row.tasks["write"].eval_docs) == 12


def test_names_are_those_of_the_index_of_the_harness():
    """A few names in files that the harness skips are found too."""
    indexed, found = {*TaskManager().task_index}, known_tasks.of_harness()
    assert indexed <= found and len(found - indexed) < 10


def test_the_facts_of_the_real_model_are_a_task():
    [row] = rows(evaluation.FACTS.parent / "tasks")
    task = row.tasks["facts"]
    lines = [line.split("\t") for line in evaluation.FACTS.read_text(encoding="utf-8").splitlines()]
    asked = [[task.doc_to_text(doc), *task.doc_to_choice(doc)] for doc in task.eval_docs]
    assert row.name == "facts" and asked == lines and {task.doc_to_target(doc) for doc in task.eval_docs} == {0}
