"""`trl-ext eval --tasks`: runs of every kind, what is printed and written, and what is said to wrong input."""

import json

import pytest

from tests import finished_runs
from tests.evaluation.tasks import files
from trl_ext.cli import main
from trl_ext.evaluation.tasks import evaluate, harness

SMALL = {"choose": files.CHOOSE}


@pytest.fixture
def installed():
    pytest.importorskip("lm_eval", reason="needs the extra `tasks`")


@pytest.fixture
def measured(installed, capsys):
    def measure(*words) -> dict:
        capsys.readouterr()
        assert main(["eval", *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return measure


def test_what_is_printed_and_written(installed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files.write(tmp_path / "tasks")
    finished_runs.leave(tmp_path / "run", "embedded", scale=0.3)
    assert main(["eval", "run", "--tasks", "tasks", "--limit", "8"]) == 0
    printed = capsys.readouterr()
    for name in ("choose, acc_norm ↑", "read, word_perplexity ↓", "write, exact_match ↑"):
        assert name in printed.out
    assert "record   run/tasks.json" in printed.out and "pretrained" not in printed.err
    record = json.loads((tmp_path / "run" / "tasks.json").read_text())
    assert record["limit"] == 8 and record["summary"] in printed.out
    choose = record["tasks"]["choose"]
    assert choose["n"] == choose["limit"] == 8 and choose["num_fewshot"] == 1 and list(choose["others"]) == ["acc"]
    moved = choose["tuned"]["value"] - choose["base"]["value"]
    assert choose["difference"]["value"] == pytest.approx(moved)
    assert main(["eval", "run", "--tasks", "tasks/write.yaml", "--output", "other.json"]) == 0
    assert list(json.loads((tmp_path / "other.json").read_text())["tasks"]) == ["write"]


def test_runs_of_every_kind(tiny_model, tmp_path, measured):
    folder = files.write(tmp_path / "tasks", read=files.READ)
    kinds = {
        "dpo": {},
        "kto": {"loss": "kto"},
        "sft": {"trainer": "sft", "max_length": 64},
        "ppo": {"trainer": "ppo", "reward_funcs": ["sentiment"]},
        "online": {"trainer": "online", "reward_funcs": ["sentiment"]},
    }
    runs = {name: finished_runs.leave(tmp_path / name, "embedded", scale=0.3, **keys) for name, keys in kinds.items()}
    found = {name: measured(run, "--tasks", folder)["tasks"]["read"] for name, run in runs.items()}
    [first, *others] = found.values()
    assert abs(first["difference"]["value"]) > 1 and all(each == first for each in others)


def test_all_weights_and_continued_adapters_are_compared_with_what_they_began_with(tiny_model, tmp_path, measured):
    folder = files.write(tmp_path / "tasks", read=files.READ.replace("{{question}}", "{{choices[0]}}"))
    first = finished_runs.leave(tmp_path / "first", "embedded", scale=0.3)
    second = finished_runs.leave(tmp_path / "second", str(first), scale=0.3, seed=1)
    whole = finished_runs.leave_all_weights(tmp_path / "whole", str(finished_runs.demo.MODEL))
    [of_first, of_second, of_whole] = [
        measured(run, "--tasks", folder)["tasks"]["read"] for run in (first, second, whole)
    ]
    assert of_second["base"]["value"] == pytest.approx(of_first["tuned"]["value"], rel=1e-5)
    assert of_whole["base"]["value"] == pytest.approx(of_first["base"]["value"], rel=1e-5)
    assert abs(of_whole["difference"]["value"]) > 1


def test_an_interrupt_keeps_the_tasks_before_it(installed, tmp_path, monkeypatch, capsys):
    from trl_ext.evaluation.tasks import measure

    asked, values = [], measure.Measurement._values

    def interrupted(self, name, task, who):
        asked.append(name)
        if name == "write":
            raise KeyboardInterrupt
        return values(self, name, task, who)

    monkeypatch.setattr(measure.Measurement, "_values", interrupted)
    folder = files.write(tmp_path / "tasks", choose=files.CHOOSE, write=files.WRITE)
    run = finished_runs.leave(tmp_path / "run", "embedded")
    assert main(["eval", str(run), "--tasks", str(folder)]) == 130
    assert f"interrupted. {run / 'tasks.json'} has choose." in capsys.readouterr().err.replace("\n", " ")
    assert list(json.loads((run / "tasks.json").read_text())["tasks"]) == ["choose"] and asked[-1] == "write"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<td>choose</td><td>acc_norm</td>" in page and "<td>write</td>" not in page


FLAGS = [
    (["--num_fewshot", "3"], "`--num_fewshot` needs tasks. Add `--tasks`, or remove it."),
    (["--apply_chat_template"], "`--apply_chat_template` needs tasks."),
    (["--tasks", "FOLDER", "--judge", "sentiment"], "`--judge` and `--tasks` were both given."),
    (["--tasks", "FOLDER", "--samples", "5"], "`--samples` has no effect with `tasks`."),
    (["--tasks", "FOLDER", "--dataset", "embedded"], "`--dataset` has no effect with `tasks`."),
    (["--tasks", ","], "`--tasks` is ','. Give names of tasks (`arc_easy,hellaswag`), or a folder of task files."),
    (["--tasks", "absent/folder"], "`--tasks` names absent/folder, and "),
    (["--tasks", "FOLDER", "--limit", "0"], "`--limit` is 0: give a whole number of at least 1"),
]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    return finished_runs.leave(tmp_path_factory.mktemp("runs") / "run", "embedded")


@pytest.mark.parametrize(("words", "message"), FLAGS)
def test_flags_that_cannot_work(words, message, finished_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "open_model", lambda *_, **__: pytest.fail("weights were loaded"))
    folder = files.write(tmp_path / "tasks", **SMALL)
    assert main(["eval", str(finished_run), *(str(folder) if word == "FOLDER" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_task_that_does_not_exist(installed, finished_run, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "load", lambda *_: pytest.fail("tasks were loaded"))
    assert main(["eval", str(finished_run), "--tasks", "arc_esay,hellaswag"]) == 2
    assert "`--tasks` names arc_esay, and there is no such task: did you mean arc_easy" in capsys.readouterr().err


def test_a_harness_that_is_not_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    run = finished_runs.leave(tmp_path / "run", "embedded")
    assert main(["eval", str(run), "--tasks", "arc_easy"]) == 2
    assert "`--tasks` needs a package that is not installed. Run `pip install lm-eval`." in capsys.readouterr().err


def test_a_reward_model(tmp_path, capsys):
    run = finished_runs.leave(tmp_path / "run", "embedded", trainer="reward")
    assert main(["eval", str(run), "--tasks", "arc_easy"]) == 2
    assert "holds a reward model, which cannot generate text. Give the run of a policy." in capsys.readouterr().err


BROKEN = {
    "a file that is no YAML": (
        {"x": "task: [x"},
        "expected ',' or ']'",
    ),
    "no file ends in .yaml": ({}, "in which no file ends in .yaml"),
    "files without a task": ({"x": "output_type: multiple_choice"}, "defines a task"),
    "a name twice": ({"x": files.CHOOSE, "y": files.CHOOSE}, "both define the task choose. Rename one of them."),
    "data that is not there": (
        {"x": files.CHOOSE.replace("rows", "none")},
        "none.jsonl'. Paths of data are relative to the current folder",
    ),
    "a dataset on the Hub": (
        {"x": files.CHOOSE.replace("path: json", "path: org/data")},
        "The data of the task choose cannot be loaded. org/data is on the Hub, but the Hub could not be reached (HF_HUB_OFFLINE is",
    ),
    "a column that is not there": (
        {"x": files.CHOOSE.replace("{{question}}", "{{nothing}}")},
        "The task choose cannot be loaded: UndefinedError: 'nothing' is undefined.",
    ),
    "a split that is not there": (
        {"x": files.CHOOSE.replace("test_split: test", "test_split: other")},
        "The task choose",
    ),
    "a module that is not there": (
        {"x": files.CHOOSE + "process_docs: !function no_such_module.f\n"},
        "x.yaml cannot be read: Cannot import module 'no_such_module'",
    ),
    "images": ({"x": files.CHOOSE + "doc_to_image: image\n"}, "The task choose shows images or sounds."),
    "code": ({"x": files.CHOOSE + "unsafe_code: true\n"}, "The task choose runs code that the model writes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_task_files_that_cannot_be_used(case, installed, finished_run, tmp_path, monkeypatch, capsys):
    texts, message = BROKEN[case]
    folder = files.write(tmp_path / "tasks", **(texts or {"x": ""}))
    if not texts:
        (folder / "x.yaml").rename(folder / "x.yml")
    monkeypatch.setattr(evaluate, "open_model", lambda *_, **__: pytest.fail("weights were loaded"))
    assert main(["eval", str(finished_run), "--tasks", str(folder)]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (finished_run / "tasks.json").exists()
