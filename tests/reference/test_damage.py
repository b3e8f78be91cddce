"""Files that are not what was written: every row is right or a miss."""

import numpy as np
import pytest

from trl_ext.reference import folder
from trl_ext.reference.cache import ReferenceCache

ROWS = {
    ((1, 2), (3,)): [-0.5],
    ((1,), (2, 3)): [-1.25, -2.0],
    ((4, 5, 6), (7, 8, 9)): [-3.0, -0.125, -7.5],
}


@pytest.fixture
def whole(tmp_path) -> tuple:
    """Path and bytes of a shard with three rows."""
    with ReferenceCache("a", tmp_path) as cache:
        cache.put([cache.key(*tokens) for tokens in ROWS], list(map(np.array, ROWS.values())))
    (path,) = folder.shards(tmp_path / "a")
    return path, path.read_bytes()


def read(directory, identity="a") -> list[bool]:
    """Which rows a new process finds; each must be what was stored."""
    cache = ReferenceCache(identity, directory)
    found = cache.get([cache.key(*tokens) for tokens in ROWS])
    for row, stored in zip(found, ROWS.values(), strict=True):
        assert row is None or row.tolist() == stored
    assert (cache.hits, cache.misses) == (sum(r is not None for r in found), sum(r is None for r in found))
    return [row is not None for row in found]


def test_undamaged(whole, tmp_path):
    assert read(tmp_path) == [True, True, True]


@pytest.mark.parametrize("change", [0xFF, 0x01, 0x80])
def test_any_byte_flipped(whole, tmp_path, change):
    """Header or index: the file is not believed. A value: its row alone is a miss."""
    path, data = whole
    values_at = len(data) - 4 * sum(map(len, ROWS.values()))
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ change]) + data[position + 1 :])
        found = read(tmp_path)
        if position < values_at:
            assert not any(found) and not path.exists(), f"byte {position}"
        else:
            assert sum(found) == 2 and path.exists(), f"byte {position}"


def test_values_under_the_key_of_another_row(whole, tmp_path, monkeypatch):
    """Were the index wrong and its digest right, a row would still be checked against the key asked for."""
    path, data = whole
    monkeypatch.setattr("trl_ext.reference.shard._digest", lambda *parts: bytes(16))
    changed = bytearray(data)
    changed[folder.HEADER.size - 16 : folder.HEADER.size] = bytes(16)
    path.write_bytes(changed)
    assert read(tmp_path) == [True, True, True]
    offset = folder.HEADER.size + 2 * 8 * 3  # behind both halves of three keys
    for dtype in ("<u4", "<u4", "<u8"):  # start, length and check: each key gets those of the next
        column = np.frombuffer(changed, dtype, 3, offset)
        column[:] = np.roll(column, 1)
        offset += column.nbytes
    path.write_bytes(changed)
    assert read(tmp_path) == [False, False, False]


def test_truncated_anywhere(whole, tmp_path):
    path, data = whole
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert read(tmp_path) == [False, False, False] and not path.exists()


def test_something_appended(whole, tmp_path):
    path, data = whole
    path.write_bytes(data + b"\0")
    assert read(tmp_path) == [False, False, False] and not path.exists()


def test_a_shard_of_another_reference(whole, tmp_path):
    """Neither the folder it lies in nor a forged owner in its header makes it this reference's."""
    path, data = whole
    (tmp_path / "b").mkdir()
    stray = tmp_path / "b" / path.name
    stray.write_bytes(data)
    assert read(tmp_path, "b") == [False, False, False] and not stray.exists()
    assert read(tmp_path, "a") == [True, True, True]


def test_a_file_of_another_format_is_left_alone(whole, tmp_path):
    path, _ = whole
    other = path.with_suffix(".ref2")
    other.write_bytes(b"a later version's")
    assert read(tmp_path) == [True, True, True]
    folder.clear(tmp_path)
    assert other.read_bytes() == b"a later version's" and not path.exists()


def test_a_damaged_row_is_replaced_by_the_next_write(whole, tmp_path):
    path, data = whole
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    tokens, values = list(ROWS.items())[read(tmp_path).index(False)]
    with ReferenceCache("a", tmp_path) as cache:
        assert cache.get([cache.key(*tokens)]) == [None]
        cache.put([cache.key(*tokens)], [np.array(values)])
    assert not path.exists() and len(folder.shards(tmp_path / "a")) == 1
    assert read(tmp_path) == [True, True, True]
