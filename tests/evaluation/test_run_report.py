"""What a run says at its end, and that `run`, `eval` and `compare` give one measure one name and one value."""

import csv
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from trl_ext import demo
from trl_ext.cli import main, parsers
from trl_ext.evaluation import report, results
from trl_ext.evaluation.next_commands import next_commands
from trl_ext.methods import METHODS
from trl_ext.recipe import load

FEW = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--warmup_steps", "0", "--learning_rate", "3e-3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the demo on a part of its data: its directory and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    data = folder / "data"
    data.mkdir()
    for name, rows in (("train", 16), ("test", 24)):
        lines = (demo.DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:rows]
        (data / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "DATA", data)
        patch.setenv("TRL_EXT_CACHE", str(folder / "cache"))
        patch.setenv("COLUMNS", "100")
        patch.chdir(folder)
        yield Path("runs", "demo-dpo")


@pytest.fixture(scope="module")
def printed(run):
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["run", "demo", *FEW]) == 0
    return out.getvalue()


def test_a_stranger_reads_what_happened(printed):
    """What was trained on what, whether the first step is right, the result, where it is, what next; each in one line."""
    lines = printed.splitlines()
    assert lines[0] == "demo: dpo → runs/demo-dpo"
    assert lines[1].startswith("model: embedded, 4 bits") and lines[2].startswith(
        "training: 2 steps, 4 pairs per step"
    )
    for beginning in (
        "embedded (train): ",
        "loss dpo: ",
        "reference: the base",
        "loss at the first step 0.6931 = 0.6931",
    ):
        assert sum(line.startswith(beginning) for line in lines) == 1, beginning
    places = {"adapter": "", "page": "/report.html", "curves": "/curves.png", "log": "/run.log"}
    for what, name in places.items():
        assert f"{what:8} runs/demo-dpo{name}" in lines


def test_the_page_has_the_measured_numbers(run, printed):
    page = (run / "report.html").read_text(encoding="utf-8")
    for name, (_, after) in table(printed).items():
        value, _, interval = after.partition(" (")
        assert f"<td>{name}</td>" in page and f"<td>{value}" in page and interval in page, name
    assert "<code>trl-ext run demo --max_steps 2" in page and "Trained for 2 steps in " in page
    assert "true reward" in (run / "README.md").read_text(encoding="utf-8")


def test_jargon_is_in_the_log_alone(run, printed):
    log = (run / "run.log").read_text(encoding="utf-8")
    for words in (
        "reduction: ",
        "where Δ = ",
        "unit of beta: ",
        "Precision: ",
        "rows: packed",
        "row_tokens",
        "from the cache",
    ):
        assert words in log and words not in printed, words
    assert "trl-ext run demo --max_steps 2" in log
    assert "as PEFT loads them" in log and "as PEFT loads them" not in printed  # said while the run is evaluated
    # The log holds everything that is printed, too.
    missing = [line for line in printed.splitlines() if line.strip() and line.strip() not in log]
    assert [line for line in missing if not line.startswith("  step ")] == []


def test_three_held_out_prompts_are_answered_before_and_after(run, printed):
    prompts = [json.loads(line)["prompt"][0]["content"] for line in (demo.DATA / "test.jsonl").open(encoding="utf-8")]
    lines = printed.splitlines()
    shown = [number for number, line in enumerate(lines) if line in prompts]
    assert len(shown) == 3
    sampled = json.loads((run / "eval-embedded-test.json").read_text())["sampled"]["examples"]
    for number in shown:
        for line, (label, who) in zip(lines[number + 1 :], (("before", "base"), ("after", "tuned")), strict=False):
            (example,) = [each for each in sampled[who] if each["prompt"] == lines[number]]
            assert re.fullmatch(rf"  {label} +{re.escape(example['text'])}  \[true reward [01]\.\d\d\]", line)


def test_the_next_commands_exist(printed):
    commands = [line.split("#")[0] for line in printed[printed.index("\nnext:") :].splitlines()[2:] if line.strip()]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        verb = words[next(i for i, word in enumerate(words) if word in parsers()[1])]
        assert verb in ("chat", "run", "compare")
        assert not any(word.startswith("runs/") and not Path(word).is_dir() for word in words)


def test_run_eval_and_compare_agree(run, printed, capsys):
    """One name, one value, one interval."""
    of_run = json.loads((run / "eval-embedded-test.json").read_text())
    assert main(["eval", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == of_run
    assert main(["eval", str(run)]) == 0
    of_eval = table(capsys.readouterr().out)
    assert of_eval == table(printed) and {"true reward", "KL to the base, nats", "margin, nats"} <= of_eval.keys()

    assert main(["compare", str(run), "--output_dir", "compared"]) == 0
    with open("compared/comparison.csv", encoding="utf-8", newline="") as file:
        (line,) = csv.DictReader(file)
    row = results.of_run(of_run)
    for measure in results.measures([row]):
        for suffix, part in (("", "value"), ("_low", "low"), ("_high", "high")):
            assert float(line[measure.key + suffix]) == row[measure.key][part], measure.name
    page = Path("compared/report.html").read_text(encoding="utf-8")
    assert all(f"<th>{measure.name}</th>" in page for measure in results.measures([row]))
    assert line["command"] == "trl-ext run runs/demo-dpo/recipe.resolved.yaml" and line["steps"] == "2"


def table(text: str) -> dict[str, list[str]]:
    """The first table with the columns before and after: cells by measure."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.split() == ["before", "after"])
    next(lines)
    found = {}
    for line in lines:
        if not line.strip():
            return found
        name, *cells = re.split(r"\s{2,}", line.strip())
        found[name] = cells
    return found


@pytest.mark.parametrize(
    ("kind", "values", "verbs"),
    [
        ("paired", {"loss": "ipo"}, ["chat", "eval", "merge"]),
        ("ppo", {"trainer": "ppo"}, ["chat", "kl", "merge"]),
        ("sft", {"trainer": "sft"}, ["chat", "run", "merge"]),
        ("reward", {"trainer": "reward"}, ["run"]),
    ],
)
def test_every_kind_of_training_has_next_commands(kind, values, verbs, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    recipe = SimpleNamespace(
        method=METHODS[kind], loss=values.get("loss"), path=Path("my.yaml"), get={"dataset_name": "x.jsonl"}.get
    )
    found = next_commands(recipe, Path("runs/my run"), True)
    assert [command.split()[:2] for command, _ in found] == [["trl-ext", verb] for verb in verbs]
    assert all("'runs/my run" in command for command, _ in found)


def test_a_program_that_is_not_on_the_path_is_named_by_its_place(monkeypatch, tmp_path):
    """As after `make run`, which activates no environment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "trl-ext").touch()
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("sys.argv", ["bin/trl-ext", "run"])
    (first, _), *_ = next_commands(load("demo"), Path("runs/x"), True)
    assert first.startswith("bin/trl-ext chat runs/x --compare")


def test_labelled_completions_have_an_area_under_the_curve():
    estimate = {"value": 0.7, "low": 0.6, "high": 0.8}
    ranking = {"log_ratio": {"area_under_curve": estimate, "margin": estimate}}
    record = {"ranking": ranking, "log_ratio": {"desirable": estimate, "undesirable": estimate}}
    rows = [results.of_base(record), results.of_run(record)]
    assert [measure.name for measure in results.measures(rows, report.DETAILED)] == [
        "AUC on held-out completions",
        "KL to the base, nats",
        "margin, nats",
    ]
    assert results.gain(rows[1:]) == ("auc", "AUC on held-out completions")
