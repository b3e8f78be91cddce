"""`--quiet`: nothing is printed but errors and warnings, and the results are written all the same."""

import pytest

from trl_ext.cli import main, parsers
from trl_ext.support import terminal


def test_nothing_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["kl", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "") and (tmp_path / "kl-audit.png").exists()
    assert main(["kl"]) == 0 and capsys.readouterr().out  # of this command alone


def test_errors_are_printed(capsys):
    assert main(["run", "nowhere.yaml", "--quiet"]) == 2
    assert "There is no recipe nowhere.yaml" in capsys.readouterr().err


def test_a_run_prints_nothing_and_shows_no_progress(tmp_path, capsys):
    assert main(["run", "demo", "--quiet", "--max_steps", "1", "--output_dir", str(tmp_path / "run"), "--force"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "%|" not in printed.err
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()


def test_progress_is_off_only_inside():
    from trl_ext.build.config import training_config
    from trl_ext.recipe import load

    with terminal.quiet():
        assert terminal.is_quiet() and terminal.console().quiet
        assert training_config(load("demo", {"use_cpu": True}), "x").disable_tqdm
    assert not terminal.is_quiet() and not terminal.console().quiet


@pytest.mark.parametrize("verb", ["run", "compare", "eval", "kl", "merge"])
def test_verbs_that_work_long_can_be_quiet(verb):
    assert "--quiet" in parsers()[1][verb]._option_string_actions
