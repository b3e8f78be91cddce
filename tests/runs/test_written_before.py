"""Use runs that an earlier layout of the code wrote: resume them, chat, evaluate, compare, merge.

`written_before/runs.tar.xz` holds one run of each kind of training: 6 steps on the embedded model, with the checkpoint of
step 4 and the result of step 6. `expected.json` holds the names of all files of these runs, and what the code that wrote them
printed for the commands below. In both, `PLACEHOLDER` stands for the folder of the embedded model; pictures are left out.
"""

import csv
import functools
import hashlib
import json
import math
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trl_ext import demo
from trl_ext.checkpoints import manifest
from trl_ext.cli import main
from trl_ext.evaluation import samples

HERE = Path(__file__).parent / "written_before"
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
PLACEHOLDER = "/checkout/trl_ext/demo/model"
SAMPLED = ("score/", "kl", "length", "ended")
"""Columns of numbers of sampled completions."""
NEW = {"run.log", "eval-embedded-test.json", "report.html"}
"""Files that runs have only now."""


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The runs as they would be had they been written on this computer."""
    folder = tmp_path_factory.mktemp("written-before")
    with tarfile.open(HERE / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for path in [*folder.rglob("adapter_config.json"), *folder.rglob("README.md")]:
        path.write_text(path.read_text(encoding="utf-8").replace(PLACEHOLDER, str(demo.MODEL)), encoding="utf-8")
    for path in folder.rglob(manifest.FILE):
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in content["files"].items():
            if name.endswith("adapter_config.json"):
                file = (path.parent / name).read_bytes()
                entry |= {"bytes": len(file), "sha256": hashlib.sha256(file).hexdigest()}
        path.write_text(json.dumps(content), encoding="utf-8")
    return folder / "runs"


@pytest.fixture
def here(written, tmp_path, monkeypatch) -> Path:
    """A fresh working directory with copies of the runs in `runs/`."""
    shutil.copytree(written, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", EXPECTED["files"])
def test_resuming_ends_where_the_uninterrupted_run_ended(kind, here, capsys, monkeypatch):
    few = functools.partial(samples.Sampling, n=8)  # not what is tested here
    monkeypatch.setattr("trl_ext.evaluation.run_report.Sampling", few)
    run = Path("runs", kind)
    adapters = {path: load_file(path) for path in run.rglob("*.safetensors") if "checkpoint" not in str(path)}
    recorded = _records(run)
    for path in adapters:
        path.unlink()
    command = ["run", f"{run}/recipe.resolved.yaml", "--output_dir", str(run), "--resume_from_checkpoint", "true"]
    assert main(command) == 0
    assert "written with other settings" not in "".join(capsys.readouterr())

    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert files - NEW == set(EXPECTED["files"][kind]) and "run.log" in files
    for path, tensors in adapters.items():
        found = load_file(path)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():  # equal to the bit on the processor that wrote them
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    records = _records(run)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6, 6]
    assert records[:4] == recorded[:4]
    # Times differ, and TRL's own trainers begin to count tokens again.
    ignored = {"seconds", "step_time"} | ({"num_tokens"} if kind in ("sft", "reward") else set())
    for record, before in zip(records[4:6], recorded[4:6], strict=True):
        assert record.keys() >= before.keys()  # metrics have been added since
        for name in before.keys() - ignored:
            # Of 128 tokens, other versions of torch may have one on the other side of a bound.
            smallest = 1 / 128 + 1e-4 if name.startswith("clip_fraction") else 1e-4
            assert record[name] == pytest.approx(before[name], rel=1e-3, abs=smallest), name


def test_a_checkpoint_is_whole_and_its_pickled_arguments_are_never_read(written):
    for checkpoint in written.glob("*/checkpoint-4"):
        assert manifest.damage(checkpoint) is None
        # They name modules by paths that are no more.
        assert b"trl_ext.trainers" in (checkpoint / "training_args.bin").read_bytes()
        with pytest.raises((ImportError, AttributeError)):
            torch.load(checkpoint / "training_args.bin", weights_only=False)


def test_chat(here, capsys):
    given = ["--temperature", "0", "--max_new_tokens", "40", "--json"]
    assert main(["chat", "runs/dpo", "--prompt", EXPECTED["chat"]["prompt"], *given]) == 0
    assert json.loads(capsys.readouterr().out) == EXPECTED["chat"]


def test_eval(here, capsys):
    assert main(["eval", "runs/kto", "--limit", "40", "--samples", "16", "--max_new_tokens", "24", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == "runs/kto"
    numbers = _numbers(found)
    for part, expected in _numbers(EXPECTED["eval"]).items():
        assert part in numbers
        if not part.startswith("sampled/"):  # completions have other random numbers now
            assert numbers[part] == pytest.approx(expected, rel=1e-3, abs=1e-4), part


def test_compare(here, capsys):
    sampling = ["--limit", "40", "--samples", "16", "--max_new_tokens", "24"]
    assert main(["compare", "runs/dpo", "runs/kto", *sampling, "--output_dir", "compared"]) == 0
    assert sorted(path.name for path in Path("compared").iterdir()) == EXPECTED["compared_files"]
    with open("compared/comparison.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(EXPECTED["compare"])
    for row, expected in zip(rows, EXPECTED["compare"], strict=True):
        assert row.keys() >= {_now(name) for name in expected}
        for name, value in ((_now(name), value) for name, value in expected.items()):
            if name == "beta" and not value:
                continue  # the default, which is written today
            if name.startswith(SAMPLED) and value:  # completions have other random numbers now
                assert math.isfinite(float(row[name])), name
                continue
            is_text = name in ("name", "loss") or not value
            assert (
                row[name] == value if is_text else float(row[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-4)
            ), name


def test_merge(here, capsys):
    assert main(["merge", "runs/dpo", "--output", "merged", "--pairs", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in Path("merged").iterdir()) == EXPECTED["merged_files"]
    assert {name: found[name] for name in ("bytes", "dtype")} == {
        name: EXPECTED["merge"][name] for name in ("bytes", "dtype")
    }
    for part, expected in EXPECTED["merge"]["fidelity"].items():
        assert found["fidelity"][part] == (
            pytest.approx(expected, rel=0.05, abs=5e-3) if isinstance(expected, dict) else expected
        ), part


def _now(column: str) -> str:
    """The name of a column of the table today: the demo's reward was called by its function."""
    return column.replace("score/sentiment", "score/true reward")


def _records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _numbers(content: dict, prefix: str = "") -> dict[str, float]:
    """The numbers in nested mappings, by the path of their keys."""
    found = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = value
    return found
