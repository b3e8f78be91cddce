"""The log of a run: what it holds, and that runs which do not begin leave none."""

import io

from rich.console import Console

from trl_ext.support import terminal
from trl_ext.support.run_log import FILE, LoggedConsole, RunLog, log


def test_lines_from_before_the_run_begins_are_kept(tmp_path):
    kept = RunLog()
    assert kept.add("lost") is False
    with kept.open():
        assert kept.add("first") is True
        kept.begin(tmp_path, "a run")
        kept.add("second")
    kept.add("lost")
    heading, *lines = (tmp_path / FILE).read_text(encoding="utf-8").splitlines()
    assert heading.startswith("=== 20") and heading.endswith(" a run") and lines == ["first", "second"]


def test_a_run_that_does_not_begin_leaves_no_log(tmp_path):
    kept = RunLog()
    with kept.open():
        kept.add("refused")
    with kept.open():
        kept.begin(tmp_path, "another run")
    assert "refused" not in (tmp_path / FILE).read_text(encoding="utf-8")


def test_a_resumed_run_continues_its_log(tmp_path):
    for command in ("first", "second"):
        kept = RunLog()
        with kept.open():
            kept.begin(tmp_path, command)
    assert [line.split()[-1] for line in (tmp_path / FILE).read_text(encoding="utf-8").splitlines()] == [
        "first",
        "second",
    ]


def test_a_log_inside_another_is_one_of_its_own(tmp_path):
    """A comparison shows no details, and each of its runs has a log."""
    kept = RunLog()
    with kept.open():
        kept.add("outer")
        with kept.open():
            kept.begin(tmp_path, "inner run")
            kept.add("inner")
        assert kept.add("outer again") is True
    assert (tmp_path / FILE).read_text(encoding="utf-8").splitlines()[1:] == ["inner"] and not kept.add("closed")


def test_a_folder_that_cannot_be_written_to_stops_nothing(tmp_path):
    kept = RunLog()
    with kept.open():
        kept.begin(tmp_path / "missing", "a run")
        assert kept.add("line") is True


def test_a_console_prints_short_lines_and_logs_whole_ones(tmp_path):
    screen = io.StringIO()
    console = LoggedConsole(LoggedConsole(Console(file=screen, width=20)))
    with log.open():
        log.begin(tmp_path, "a run")
        console.print("[bold]a sentence[/bold] that is longer than the screen")
        console.detail("only in the log")
    console.detail("printed where there is no log")
    lines = (tmp_path / FILE).read_text(encoding="utf-8").splitlines()[1:]
    assert lines == ["a sentence that is longer than the screen", "only in the log"]  # once, though wrapped twice
    assert "only in the log" not in screen.getvalue() and "there is no log" in " ".join(screen.getvalue().split())


def test_a_quiet_run_has_the_same_log(tmp_path, capsys):
    with terminal.quiet(), log.open():
        log.begin(tmp_path, "a run")
        LoggedConsole(terminal.console()).print("the result")
    assert capsys.readouterr().out == ""
    assert (tmp_path / FILE).read_text(encoding="utf-8").splitlines()[1:] == ["the result"]
