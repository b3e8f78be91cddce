"""Read and write a shard of the reference cache: an immutable file of per-token log-probabilities with checksums.

Layout, little-endian: header (`folder.HEADER`), then the index as five columns sorted by key (first and second half of the
key, start, length, check), then the float32 values of all rows. There are two kinds of digests. The header's covers header
and index and is verified when the file is opened. A row's check covers key and values and is verified whenever the row is
read. It alone rules out wrong values: whatever the index says, a row is used only if its bytes were written for this key,
and the key depends on the identity.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from trl_ext.reference.folder import HEADER, MAGIC
from trl_ext.support import atomic

KEY_BYTES = 16
COLUMNS = ("<u8", "<u8", "<u4", "<u4", "<u8")  # key, key, start and length in values, check
ROW_BYTES = sum(np.dtype(column).itemsize for column in COLUMNS)
"""Bytes of a row in the index, on disk and in memory."""


class DamagedShardError(Exception):
    """The file is not a shard of this identity, or is incomplete."""


def write(path: Path, identity: bytes, rows: Mapping[bytes, np.ndarray]) -> None:
    """Write a new shard. The file appears only when it is complete and on disk.

    Args:
        path: A new path.
        identity: 16-byte digest of the identity.
        rows: Float32 log-probabilities, shape (tokens,), by 16-byte key.
    """
    halves = _halves(list(rows))
    order = np.argsort(halves[:, 0], kind="stable")
    keys = list(rows)
    keys = [keys[i] for i in order]
    values = [np.ascontiguousarray(rows[key], dtype="<f4").tobytes() for key in keys]
    lengths = np.array([len(value) // 4 for value in values], dtype="<u4")
    index = b"".join(
        np.ascontiguousarray(column, dtype=dtype).tobytes()
        for column, dtype in zip(
            (
                halves[order, 0],
                halves[order, 1],
                np.cumsum(lengths, dtype="<u8") - lengths,
                lengths,
                [_check(key, value) for key, value in zip(keys, values, strict=True)],
            ),
            COLUMNS,
            strict=True,
        )
    )
    size = HEADER.size + len(index) + 4 * int(lengths.sum(dtype="<u8"))
    header = HEADER.pack(MAGIC, identity, len(keys), size, _digest(identity, len(keys), size, index))
    atomic.write(path, (header, index, *values))


class Shard:
    """Index of one file in memory. Values are read on demand, and the file is not kept open.

    Attributes:
        size: File size in bytes.
        is_damaged: Whether a row failed its check.
        touched: When this process last marked the file as used, in seconds of `time.monotonic`.
    """

    def __init__(self, path: Path, identity: bytes) -> None:
        """Read and verify header and index.

        Raises:
            DamagedShardError: The file is damaged; the message is the reason.
            OSError: The file cannot be read.
        """
        self.path = path
        self.is_damaged, self.touched = False, float("-inf")
        with open(path, "rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            if self.size < HEADER.size:
                raise DamagedShardError("it is shorter than a header")
            magic, owner, rows, size, digest = HEADER.unpack(file.read(HEADER.size))
            if magic != MAGIC:
                raise DamagedShardError("it is not a shard")
            if owner != identity:
                raise DamagedShardError("it belongs to another reference")
            if size != self.size or HEADER.size + rows * ROW_BYTES > size:
                raise DamagedShardError(f"it has {self.size} bytes instead of {size}")
            index = file.read(rows * ROW_BYTES)
        if _digest(identity, rows, size, index) != digest:
            raise DamagedShardError("its index is damaged")
        self._values_at = HEADER.size + len(index)
        columns, offset = [], 0
        for dtype in COLUMNS:
            columns.append(np.frombuffer(index, dtype, rows, offset))
            offset += columns[-1].nbytes
        self._first, self._second, self._starts, self._lengths, self._checks = columns

    def __len__(self) -> int:
        return len(self._first)

    def get(self, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """Values of each key, float32 of shape (tokens,); `None` if they are absent or damaged.

        Raises:
            OSError: The file was removed or cannot be read.
        """
        found: list[np.ndarray | None] = [None] * len(keys)
        if not len(self) or not keys:
            return found
        halves = _halves(keys)
        # Keys with the same first 64 bits are distinguished by the other 64. The second of them is then always a miss, which
        # happens in one of about 10^7 caches of a million rows.
        position = np.searchsorted(self._first, halves[:, 0]).clip(max=len(self) - 1)
        present = (self._first[position] == halves[:, 0]) & (self._second[position] == halves[:, 1])
        if not present.any():
            return found
        with open(self.path, "rb", buffering=0) as file:
            for i in np.flatnonzero(present):
                row = position[i]
                file.seek(self._values_at + 4 * int(self._starts[row]))
                found[i] = self._verified(keys[i], row, file.read(4 * int(self._lengths[row])))
        return found

    def rows(self) -> Iterator[tuple[bytes, np.ndarray]]:
        """All keys and values, without rows that fail their check.

        Raises:
            OSError: The file was removed or cannot be read.
        """
        with open(self.path, "rb") as file:
            file.seek(self._values_at)
            values = memoryview(file.read())
        for row in range(len(self)):
            key = self._first[row].tobytes() + self._second[row].tobytes()
            start = 4 * int(self._starts[row])
            verified = self._verified(key, row, values[start : start + 4 * int(self._lengths[row])])
            if verified is not None:
                yield key, verified

    def _verified(self, key: bytes, row: int, values: bytes | memoryview) -> np.ndarray | None:
        if len(values) != 4 * self._lengths[row] or _check(key, values) != self._checks[row]:
            self.is_damaged = True
            return None
        return np.frombuffer(values, "<f4").astype(np.float32)  # a copy that may be written to


def _halves(keys: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), "<u8").reshape(-1, 2)


def _check(key: bytes, values: bytes | memoryview) -> int:
    digest = blake2b(key, digest_size=8)
    digest.update(values)
    return int.from_bytes(digest.digest(), "little")


def _digest(identity: bytes, rows: int, size: int, index: bytes) -> bytes:
    digest = blake2b(HEADER.pack(MAGIC, identity, rows, size, b""), digest_size=16)
    digest.update(index)
    return digest.digest()
