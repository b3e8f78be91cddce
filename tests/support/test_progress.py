"""Lines of progress where the output is no terminal."""

import io
import time

from rich.console import Console

from trl_ext.support import progress
from trl_ext.support.progress import Progress


def test_a_batch_of_items_that_come_at_once_gives_one_estimate(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.1)
    written = io.StringIO()

    def batches():
        for start in (0, 50):
            time.sleep(0.25)
            yield from range(start, start + 50)

    watched = Progress(Console(file=written, width=100))
    assert list(watched.watch(batches(), 100, "answers")) == list(range(100))
    lines = written.getvalue().splitlines()
    assert lines[0] == "answers: 0 of 100"
    assert set(lines[1:]) <= {"answers: 0 of 100", "answers: 50 of 100, about 0 s left"} and len(set(lines)) == 2
    assert watched.done == {"answers": (100, 100)}


def test_a_loop_that_is_left_says_no_more(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    written = io.StringIO()
    watched = Progress(Console(file=written, width=100)).watch(range(9), 9, "verdicts")
    next(watched)
    watched.close()
    said = written.getvalue()
    time.sleep(0.2)
    assert written.getvalue() == said
