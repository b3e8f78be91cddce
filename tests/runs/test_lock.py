"""Who may write into a directory is the system's lock, not a file that someone left."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from tests.runs.test_run import recipe  # noqa: F401  (a fixture)
from trl_ext.cli import main
from trl_ext.runs import lock
from trl_ext.support.errors import UserError

HOLDER = """
import sys
from pathlib import Path
from trl_ext.runs import lock
with lock.writing(Path(sys.argv[1])):
    print("inside", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(directory):
    """Another process that is inside, until its input is closed or it is killed."""
    command = [sys.executable, "-c", HOLDER, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "inside\n"
            yield process
        finally:
            process.kill()


def content(directory):
    """Names, times and bytes."""
    return [(path.name, path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(directory.iterdir())]


def test_a_second_one_is_refused_until_the_first_is_out(tmp_path):
    out = tmp_path / "runs" / "out"
    with holder(out) as process:
        before = content(out)
        said = f"Another run is writing to {re.escape(str(out))} \\(process {process.pid}, since .*\\). Wait until it ends"
        with pytest.raises(UserError, match=said), lock.writing(out):
            pytest.fail("two are inside")
        with pytest.raises(UserError, match=said):
            lock.refuse_if_written(out)
        assert content(out) == before
        process.communicate(timeout=600)
    assert process.returncode == 0 and not any(tmp_path.iterdir())  # nothing came into it
    with lock.writing(out):
        (out / "kept").touch()
    assert [path.name for path in out.iterdir()] == ["kept"]


def test_what_a_killed_one_left_locks_nothing(tmp_path):
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        assert (tmp_path / lock.FILE).exists()
        with lock.writing(tmp_path):
            assert str(os.getpid()) in (tmp_path / lock.FILE).read_text()
    assert tmp_path.exists() and not any(tmp_path.iterdir())


def test_only_the_main_process_of_several_takes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with lock.writing(tmp_path):
        monkeypatch.setenv("RANK", "1")
        lock.refuse_if_written(tmp_path)
        with lock.writing(tmp_path):
            pass
        assert (tmp_path / lock.FILE).exists()


@pytest.mark.parametrize("error", [OSError("read-only"), NotImplementedError("no flock")])
def test_where_there_are_no_locks_nobody_is_kept_out(error, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", fails)
    with lock.writing(tmp_path / "out"):
        (tmp_path / "out" / "kept").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept"]


def test_commands_are_refused_before_weights_are_loaded(recipe, tmp_path, capsys, monkeypatch):  # noqa: F811
    path, out = recipe(), tmp_path / "out"
    run = ["run", path, "--output_dir", "out"]
    with holder(out) as process, monkeypatch.context() as patch:
        (out / "recipe.resolved.yaml").write_text(yaml.safe_dump({"beta": 0.1}))  # it has got far
        before = content(out)
        patch.setattr("trl_ext.build.trainer.build_trainer", None)
        patch.setattr("trl_ext.comparison.training.train", None)
        compare = ["compare", path, "--losses", "dpo,ipo", "--output_dir", "out"]
        for command in (run, [*run, "--resume_from_checkpoint", "true"], compare):
            assert main(command) == 2
            said = capsys.readouterr().err
            assert f"Another run is writing to out (process {process.pid}, since " in said
        assert content(out) == before
        (out / "recipe.resolved.yaml").unlink()
        process.kill()
        process.wait()
    assert main(run) == 0
    assert (out / "adapter_model.safetensors").exists() and not (out / lock.FILE).exists()


def test_a_run_that_ends_before_it_wrote_leaves_no_directory(recipe, capsys):  # noqa: F811
    assert main(["run", recipe(max_length=2), "--output_dir", "a/b"]) == 2
    assert "Every training example was dropped" in capsys.readouterr().err
    assert not Path("a").exists()
