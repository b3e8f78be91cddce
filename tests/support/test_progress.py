"""Lines of progress where the output is no terminal."""

import io
import re
import threading
import time
from types import SimpleNamespace

from rich.console import Console

from trl_ext.support import progress
from trl_ext.support.progress import Progress


def test_a_batch_of_items_that_come_at_once_gives_one_estimate(monkeypatch):
    due, written = threading.Semaphore(0), io.StringIO()

    class Ended(threading.Event):
        def wait(self, timeout=None):  # a line is due when the test says so, not after some seconds
            due.acquire()
            return self.is_set()

        def set(self):
            super().set()
            due.release()

    monkeypatch.setattr(progress, "threading", SimpleNamespace(Event=Ended, Thread=threading.Thread))

    def batches():
        for start in (0, 50):
            due.release()
            while written.getvalue().count("\n") <= start // 50:
                time.sleep(0.01)
            yield from range(start, start + 50)

    watched = Progress(Console(file=written, width=100))
    assert list(watched.watch(batches(), 100, "answers")) == list(range(100))
    first, second = written.getvalue().splitlines()
    assert first == "answers: 0 of 100" and re.fullmatch(r"answers: 50 of 100, about \d+ s left", second)
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
