"""A process that uses a reference cache, for tests that kill it or run two of them at once.

`python -m tests.reference.worker DIRECTORY SEED ROUNDS [hang]` looks up random rows, checks what it finds,
and stores what it misses; every row it has flushed is acknowledged by a line with its number. With `hang` it
stops half way through writing its second shard.
"""

import os
import random
import sys
import time

import numpy as np

from trl_ext.reference.cache import ReferenceCache

IDENTITY = "0123abcd"
ROWS = 300
"""Numbers of rows the workers draw from."""


def key(cache: ReferenceCache, i: int) -> bytes:
    return cache.key([i, i + 1], [i + 2])


def values(i: int) -> np.ndarray:
    """What every process computes for row i: 1 to 50 exactly representable numbers."""
    return -np.arange(1, 2 + i % 50, dtype=np.float32) * (i + 1)


def main(directory: str, seed: int, rounds: int, hangs: bool) -> None:
    rng = random.Random(seed)
    cache = ReferenceCache(IDENTITY, directory)
    for done in range(rounds):
        if hangs and done == 1:
            stop_half_way()
        rows = rng.sample(range(ROWS), 12)
        found = cache.get([key(cache, i) for i in rows])
        wrong = [
            i for i, row in zip(rows, found, strict=True) if row is not None and not np.array_equal(row, values(i))
        ]
        assert not wrong, f"rows {wrong} are not what was stored"
        missing = [i for i, row in zip(rows, found, strict=True) if row is None]
        cache.put([key(cache, i) for i in missing], [values(i) for i in missing])
        cache.flush()
        for i in rows:
            print(i, flush=True)


def stop_half_way() -> None:
    def halve_and_hang(descriptor: int) -> None:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        print("hanging", flush=True)
        time.sleep(600)

    os.fsync = halve_and_hang


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "hang" in sys.argv)
