"""Several processes on one cache, and processes that die while they write."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.reference.worker import IDENTITY, ROWS, key, values
from trl_ext.reference import folder
from trl_ext.reference.cache import ReferenceCache

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start():
    """Starts workers; whatever still runs at the end of the test is killed."""
    running = []

    def one(*words) -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.reference.worker", *map(str, words)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT))
        return running[-1]

    yield one
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def stored(directory: Path) -> set[int]:
    """Rows a new process finds; each must be what was stored."""
    cache = ReferenceCache(IDENTITY, directory)
    found = cache.get([key(cache, i) for i in range(ROWS)])
    for i, row in enumerate(found):
        assert row is None or np.array_equal(row, values(i))
    return {i for i, row in enumerate(found) if row is not None}


def test_two_processes_at_once(start, tmp_path):
    workers = [start(tmp_path, seed, 40) for seed in (1, 2)]
    acknowledged = set()
    for worker in workers:
        acknowledged |= set(map(int, worker.communicate()[0].split()))
        assert worker.returncode == 0
    assert len(acknowledged) > ROWS / 2
    assert stored(tmp_path) == acknowledged
    # 80 shards were written; small ones are merged, by whoever comes first.
    assert len(folder.shards(tmp_path / IDENTITY)) < 20


@pytest.mark.parametrize("lines", [1, 100, 500])
def test_killed_at_any_time(start, tmp_path, lines):
    """What was flushed before the kill is there, and nothing is there that was not put."""
    worker = start(tmp_path, lines, 10_000)
    acknowledged = {int(worker.stdout.readline()) for _ in range(lines)}
    worker.kill()
    acknowledged |= set(map(int, worker.communicate()[0].split()[:-1]))  # the last line may be half a number
    assert acknowledged <= stored(tmp_path)


def test_killed_in_the_middle_of_a_write(start, tmp_path):
    worker = start(tmp_path, 5, 10, "hang")
    acknowledged = []
    for line in worker.stdout:
        if line == "hanging\n":
            break
        acknowledged.append(int(line))
    worker.kill()
    worker.wait()
    (half_written,) = (tmp_path / IDENTITY).glob(".*.tmp")
    assert half_written.stat().st_size > 0
    assert len(acknowledged) == 12 and stored(tmp_path) == set(acknowledged)
    assert folder.entries(tmp_path)[0].rows == 12

    # The next write leaves it alone, since it could be another process's; an hour later it goes.
    with ReferenceCache(IDENTITY, tmp_path) as cache:
        cache.put([key(cache, ROWS)], [values(ROWS)])
    assert half_written.exists()
    os.utime(half_written, (0, 0))
    with ReferenceCache(IDENTITY, tmp_path) as cache:
        cache.put([key(cache, ROWS + 1)], [values(ROWS + 1)])
    assert not half_written.exists()
    assert stored(tmp_path) == set(acknowledged)
