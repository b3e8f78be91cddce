"""Names, folders and files of tasks."""

import pytest

pytest.importorskip("lm_eval", reason="needs the extra `tasks`")

from tests.evaluation.tasks import files
from trl_ext.evaluation.tasks.choice import TaskChoice
from trl_ext.evaluation.tasks.evaluate import load


def rows(*names, **settings):
    return load(TaskChoice(tuple(map(str, names)), **settings), print)


def test_a_folder_has_the_rows_of_its_files(tmp_path):
    folder = files.write(tmp_path / "tasks")
    assert sorted(row.name for row in rows(folder)) == ["choose", "read", "write"]
    [row] = rows(folder / "write.yaml")
    assert row.name == "write" and row.group is None and len(row.tasks["write"].eval_docs) == 12
