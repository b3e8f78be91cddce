"""The reference cache: what is found again, by whom, and what it costs on disk."""

import logging
import os

import numpy as np
import pytest

from trl_ext.reference import cache as module
from trl_ext.reference import folder
from trl_ext.reference.cache import ReferenceCache


def row(i: int, tokens: int = 3) -> np.ndarray:
    return np.full(tokens, -float(i), dtype=np.float32)


def fill(directory, rows, identity="a", tokens=3, **options) -> None:
    """Write `rows` as one shard."""
    with ReferenceCache(identity, directory, **options) as cache:
        cache.put([cache.key([i], [i]) for i in rows], [row(i, tokens) for i in rows])


def found(directory, rows, identity="a") -> list[int]:
    cache = ReferenceCache(identity, directory)
    values = cache.get([cache.key([i], [i]) for i in rows])
    return [i for i, value in zip(rows, values, strict=True) if value is not None]


def test_values_come_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [-rng.exponential(size=n).astype(np.float32) for n in (1, 2, 700, 0)]
    prompts = [[], [5], list(range(900)), [7]]
    with ReferenceCache("a", tmp_path) as cache:
        keys = [cache.key(prompt, range(len(array))) for prompt, array in zip(prompts, arrays, strict=True)]
        cache.put(keys, arrays)
        unsaved = cache.get(keys)
    read = ReferenceCache("a", tmp_path).get(keys)
    for array, *copies in zip(arrays, unsaved, read, strict=True):
        for copy in copies:
            assert copy.dtype == np.float32 and copy.shape == array.shape
            assert copy.tobytes() == array.tobytes()
            copy += 1  # what is handed out may be written to
    assert all(np.array_equal(a, b) for a, b in zip(cache.get(keys), arrays, strict=True))


def test_keys_tell_apart_what_differs(tmp_path):
    cache = ReferenceCache("a", tmp_path)
    tokens = [([1, 2], [3]), ([1], [2, 3]), ([], [1, 2, 3]), ([1, 2, 3], []), ([1, 2], [4]), ([2, 1], [3])]
    tokens += [([1, 2], [3, 0]), ([0, 1, 2], [3]), ([1 + 2**32, 2], [3])]
    keys = {cache.key(*pair) for pair in tokens} | {ReferenceCache("b", tmp_path).key([1, 2], [3])}
    assert len(keys) == len(tokens) + 1
    assert cache.key(np.array([1, 2]), (3,)) == cache.key([1, 2], [3])  # only the numbers count


def test_hits_and_misses_are_counted_once_per_row(tmp_path):
    fill(tmp_path, range(3))
    cache = ReferenceCache("a", tmp_path)
    for _ in range(2):  # another epoch
        cache.get([cache.key([i], [i]) for i in (0, 9, 2, 0)])
        cache.put([cache.key([9], [9])], [np.zeros(1)])
    assert (cache.hits, cache.misses) == (2, 1)
    assert cache.get([]) == []


def test_what_another_instance_writes_is_found_without_reopening(tmp_path):
    early = ReferenceCache("a", tmp_path)
    key = early.key([4], [4])
    assert early.get([key]) == [None]
    fill(tmp_path, [4])
    assert np.array_equal(early.get([key])[0], row(4))
    folder.clear(tmp_path)
    assert early.get([key]) == [None]


def test_identities_do_not_meet(tmp_path):
    fill(tmp_path, range(3), identity="a")
    assert found(tmp_path, range(3), identity="b") == []


def test_rows_that_are_not_finite_are_not_kept(tmp_path):
    with ReferenceCache("a", tmp_path) as cache:
        keys = [cache.key([i], [i]) for i in range(3)]
        cache.put(keys, [np.array([-1.0, np.nan]), np.array([-np.inf]), np.array([-2.0])])
    assert found(tmp_path, range(3)) == [2]


def test_keys_and_arrays_must_match(tmp_path):
    cache = ReferenceCache("a", tmp_path)
    with pytest.raises(ValueError):
        cache.put([cache.key([1], [1])], [])


@pytest.mark.parametrize("identity", ["", "../a", "a/b", ".hidden", "a b", "x" * 129])
def test_an_identity_must_be_a_folder_name(identity, tmp_path):
    with pytest.raises(ValueError, match="is not a valid name of a folder"):
        ReferenceCache(identity, tmp_path)


def test_rows_are_written_when_enough_or_long_enough_is_waiting(tmp_path, monkeypatch):
    cache = ReferenceCache("a", tmp_path)

    def put(i: int) -> None:
        cache.put([cache.key([i], [i])], [row(i)])

    put(0)
    assert folder.entries(tmp_path) == []
    monkeypatch.setattr(module, "SHARD_BYTES", 100)  # a row is 3·4 bytes and 32 of index
    put(1)
    assert folder.entries(tmp_path) == []
    put(2)
    assert folder.entries(tmp_path)[0].rows == 3
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    put(3)
    assert folder.entries(tmp_path)[0].rows == 4


def test_small_shards_are_merged(tmp_path):
    for i in range(module.MERGE_FILES):
        fill(tmp_path, [i, i + 1])  # each overlaps with the next
    assert len(folder.shards(tmp_path / "a")) == module.MERGE_FILES
    reader = ReferenceCache("a", tmp_path)
    keys = [reader.key([i], [i]) for i in range(module.MERGE_FILES + 1)]
    assert reader.get(keys[:1])[0] is not None  # it knows the shards that are about to go
    fill(tmp_path, [100])
    (entry,) = folder.entries(tmp_path)
    assert entry.files == 1 and entry.rows == module.MERGE_FILES + 2  # without the duplicates
    assert all(np.array_equal(value, row(i)) for i, value in enumerate(reader.get(keys)))


def test_a_merge_that_fails_loses_nothing(tmp_path, monkeypatch, caplog):
    for i in range(module.MERGE_FILES):
        fill(tmp_path, [i])
    before = {path: path.read_bytes() for path in folder.shards(tmp_path / "a")}

    def full(*paths):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder.os, "replace", full)
        fill(tmp_path, [100])
    assert "No space left on device" in caplog.text
    assert {path: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_no_shard_grows_without_end_by_merging(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 4096)
    for i in range(60):
        fill(tmp_path, [i], tokens=100)
    files = folder.shards(tmp_path / "a")
    assert len(files) < 25
    assert max(path.stat().st_size for path in files) < 2 * 4096
    assert found(tmp_path, range(60)) == list(range(60))


# The size limit -------------------------------------------------------------------------------------------


def age(directory, identity: str, hours: float) -> None:
    for path in folder.shards(directory / identity):
        then = path.stat().st_mtime - 3600 * hours
        os.utime(path, (then, then))


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    for identity, hours in (("old", 3), ("older", 4), ("oldest", 5)):
        fill(tmp_path, range(10), identity=identity, tokens=1000)
        age(tmp_path, identity, hours)
    assert found(tmp_path, [0], identity="oldest") == [0]  # used: now the newest
    size = folder.usage(tmp_path)
    fill(tmp_path, range(10), identity="new", tokens=1000, limit_bytes=size)
    assert [entry.identity for entry in folder.entries(tmp_path)] == ["new", "oldest", "old"]
    assert folder.usage(tmp_path) <= size


def test_what_was_just_written_stays_whatever_the_limit(tmp_path):
    fill(tmp_path, range(5), identity="other")
    fill(tmp_path, range(10), limit_bytes=1)
    assert [entry.identity for entry in folder.entries(tmp_path)] == ["a"]
    assert found(tmp_path, range(10)) == list(range(10))


def test_no_limit(tmp_path):
    fill(tmp_path, range(5), identity="other")
    fill(tmp_path, range(10), limit_bytes=None)
    assert len(folder.entries(tmp_path)) == 2


# Where it lies --------------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_says_so_once_and_lets_the_run_go_on(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = ReferenceCache("a", tmp_path / "file")
    keys = [cache.key([i], [i]) for i in range(2)]
    with caplog.at_level(logging.WARNING):
        for i in range(2):
            assert cache.get(keys[i : i + 1]) == [None]
            cache.put(keys[i : i + 1], [row(i)])
            cache.flush()
    (record,) = caplog.records
    assert "cannot be written" in record.message and "TRL_EXT_CACHE" in record.message
    assert np.array_equal(cache.get(keys[:1])[0], row(0))  # what was waiting still serves this run


def test_default_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "here"))
    fill(None, [1])
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert folder.entries()[0].rows == 1 and folder.usage() > 0
    monkeypatch.delenv("TRL_EXT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder.default_directory() == tmp_path / ".cache" / "trl-ext" / "reference"


def test_entries_and_clear(tmp_path):
    assert folder.entries(tmp_path / "nowhere") == [] and folder.usage(tmp_path / "nowhere") == 0
    fill(tmp_path, range(4), identity="a", about="a small Llama")
    fill(tmp_path, range(2), identity="b")
    age(tmp_path, "b", 2)
    a, b = folder.entries(tmp_path)
    assert (a.identity, a.about, a.rows, a.files) == ("a", "a small Llama", 4, 1)
    assert (b.identity, b.about, b.rows) == ("b", "", 2) and a.last_used - b.last_used == pytest.approx(7200, abs=60)
    assert a.bytes + b.bytes == folder.usage(tmp_path)
    assert folder.clear(tmp_path, "a") == a.bytes
    assert folder.entries(tmp_path) == [b]
    assert folder.clear(tmp_path) == b.bytes
    assert list(tmp_path.iterdir()) == []
