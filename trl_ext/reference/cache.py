"""Reference log-probabilities on disk, computed once for every loss, seed and subset that reads them.

A row is one completion: its per-token log-probabilities under the reference, found by a digest of the
identity of the reference, the prompt's token ids and the completion's token ids, all after truncation.
Nothing else can change those numbers, so nothing else is in the key: not the loss, its beta, the learning
rate, the seed, the adapter, the output directory, the order of the rows or which others come along. Sums,
averages and weighted sums such as LD-DPO's are formed by the reader. Padding and packing change a value by
rounding alone and are not in the key either.

Images are not in the key: completions that depend on them must not be cached here.

Storage is a few immutable files that appear by an atomic rename (`shard`). Readers and writers then need no
locks, also on network file systems, and a damaged file costs its own rows only. A database such as SQLite
would add locks (its write-ahead log needs shared memory, hence one machine), leave pages without checksums,
and turn one bad page into a damaged whole that cannot be replaced while other processes have it open.
"""

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from trl_ext.reference import folder, shard
from trl_ext.reference.folder import (
    LIMIT_BYTES,
    SUFFIX,
    Entry,
    clear,
    default_directory,
    default_limit,
    entries,
    usage,
)
from trl_ext.reference.shard import DamagedShardError, Shard

__all__ = ["LIMIT_BYTES", "Entry", "ReferenceCache", "clear", "default_directory", "default_limit", "entries", "usage"]

SHARD_BYTES = 64 * 2**20
"""Rows are written once this much is waiting."""
SAVE_SECONDS = 60.0
"""Rows are written once the first of them has waited this long: what a killed process loses."""
MERGE_FILES = 8
"""This many shards below a quarter of `SHARD_BYTES` are merged at the next write."""
TOUCH_SECONDS = 600.0
"""How often a shard in use is marked as used."""

log = logging.getLogger(__name__)


class ReferenceCache:
    """Per-token log-probabilities of completions under one reference.

    Any number of processes may use the same directory at once, each with an instance of its own; what one has
    written, the others find at their next miss. A row that cannot be trusted is a miss. A cache that cannot
    be written (disk full, no permission) says so once and keeps the run going without it.

    Attributes:
        hits: Different rows that `get` was asked for so far and had at the first asking.
        misses: Those it had not. Asking again, in another epoch or after running out of memory, counts no more.
    """

    def __init__(
        self,
        identity: str,
        directory: Path | str | None = None,
        limit_bytes: int | None = LIMIT_BYTES,
        about: str = "",
    ) -> None:
        """
        Args:
            identity: What the values depend on besides the tokens, usually
                `identity.reference_identity(model)`.
            directory: Root of the cache, shared by all identities; `default_directory()` if not given.
            limit_bytes: Size of the whole root above which the shards not used for longest are removed;
                `None` for no limit.
            about: The reference in words, for people who look at the cache.

        Raises:
            ValueError: If `identity` cannot be the name of a folder.
        """
        self.hits = self.misses = 0
        self._asked: set[bytes] = set()
        self._root = Path(directory).expanduser() if directory else default_directory()
        self._folder = folder.identity_folder(self._root, identity)
        self._digest = blake2b(identity.encode(), digest_size=16).digest()
        self._limit_bytes, self._about = limit_bytes, about
        self._shards: dict[str, Shard] = {}
        self._ignored: set[str] = set()  # files that are not believed or cannot be read
        self._unsaved: dict[bytes, np.ndarray] = {}
        self._unsaved_bytes = 0
        self._unsaved_since = 0.0
        self._is_writable = True

    def key(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> bytes:
        """Key of a completion, 16 bytes.

        Args:
            prompt_ids: Token ids of the prompt as the model reads them, after truncation, without padding.
            completion_ids: Those of the completion.
        """
        prompt = np.ascontiguousarray(prompt_ids, dtype="<i8")
        completion = np.ascontiguousarray(completion_ids, dtype="<i8")
        digest = blake2b(len(prompt).to_bytes(8, "little"), digest_size=shard.KEY_BYTES, key=self._digest)
        digest.update(prompt)
        digest.update(completion)
        return digest.digest()

    def get(self, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """Per-token log-probabilities of each key, float32 of shape (tokens,); `None` for a miss.

        The tokens are those that were scored: the completion's, save its first where the prompt is empty.
        """
        found = [self._unsaved.get(key) for key in keys]
        found = [None if row is None else row.copy() for row in found]
        self._read(keys, found)
        if any(row is None for row in found) and self._refresh():
            self._read(keys, found)
        for key, row in zip(keys, found, strict=True):
            if key not in self._asked:
                self._asked.add(key)
                self.misses += row is None
                self.hits += row is not None
        return found

    def put(self, keys: Sequence[bytes], arrays: Sequence[np.ndarray]) -> None:
        """Keep the per-token log-probabilities of each key, shape (tokens,).

        Found by this instance at once, by other processes after the next write (`flush`, or by itself after a
        minute or 64 MiB). A row that is not finite is not kept: whatever broke it should not outlive the run.
        """
        for key, array in zip(keys, arrays, strict=True):
            row = np.array(array, dtype=np.float32).reshape(-1)
            if not self._is_writable or key in self._unsaved or not np.isfinite(row).all():
                continue
            if not self._unsaved:
                self._unsaved_since = time.monotonic()
            self._unsaved[key] = row
            self._unsaved_bytes += row.nbytes + shard.ROW_BYTES
        waited = time.monotonic() - self._unsaved_since
        if self._unsaved_bytes >= SHARD_BYTES or (self._unsaved and waited >= SAVE_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Write what is waiting; when this returns it is on disk."""
        if not self._unsaved or not self._is_writable:
            return
        try:
            self._write()
        except OSError as error:
            self._is_writable = False
            log.warning(
                "The reference cache cannot be written (%s): this run goes on without keeping its reference "
                "values. Free some space, or set TRL_EXT_CACHE to a directory that can be written.",
                error,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    # Reading ------------------------------------------------------------------------------------------------

    def _read(self, keys: Sequence[bytes], found: list[np.ndarray | None]) -> None:
        """Fill the gaps of `found` from the shards known so far."""
        for name, source in list(self._shards.items()):
            gaps = [i for i, row in enumerate(found) if row is None]
            if not gaps:
                return
            try:
                rows = source.get([keys[i] for i in gaps])
            except OSError:  # merged or removed by another process
                del self._shards[name]
                continue
            for i, row in zip(gaps, rows, strict=True):
                found[i] = row
            if any(row is not None for row in rows):
                self._touch(source)

    def _refresh(self) -> bool:
        """Take note of shards that came or went; whether any came."""
        names = {path.name: path for path in folder.shards(self._folder)}
        for name in self._shards.keys() - names.keys():
            del self._shards[name]
        new = names.keys() - self._shards.keys() - self._ignored
        for name in sorted(new):
            self._open(names[name])
        return bool(new & self._shards.keys())

    def _open(self, path: Path) -> None:
        try:
            self._shards[path.name] = Shard(path, self._digest)
        except DamagedShardError as error:
            self._ignored.add(path.name)
            log.warning("Reference cache: %s is removed, %s; its rows are computed again.", path, error)
            folder.remove(path)
        except FileNotFoundError:
            pass  # another process was faster
        except OSError:
            self._ignored.add(path.name)

    def _touch(self, source: Shard) -> None:
        now = time.monotonic()
        if now - source.touched < TOUCH_SECONDS:
            return
        source.touched = now
        with contextlib.suppress(OSError):
            os.utime(source.path)

    # Writing ------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        folder.say_about(self._folder, self._about)
        rows = dict(self._unsaved)
        absorbed = []
        for source in self._to_absorb():
            try:
                rows = {**dict(source.rows()), **rows}
            except OSError:
                continue  # another process absorbed it
            absorbed.append(source)
        path = self._folder / f"{uuid.uuid4().hex}{SUFFIX}"
        shard.write(path, self._digest, rows)
        # Removed only now that every sound row of theirs is on disk once more.
        for source in absorbed:
            folder.remove(source.path)
            self._shards.pop(source.path.name, None)
        self._unsaved, self._unsaved_bytes = {}, 0
        self._open(path)
        if self._limit_bytes is not None:
            folder.evict(self._root, self._limit_bytes, keep=path)

    def _to_absorb(self) -> list[Shard]:
        """Shards to merge into the next: damaged ones, and small ones where there are many."""
        self._refresh()
        known = sorted(self._shards.values(), key=lambda source: source.size)
        small = [source for source in known if source.size < SHARD_BYTES // 4]
        chosen = [source for source in known if source.is_damaged and source not in small]
        if len(small) >= MERGE_FILES:
            total = 0
            for source in small:
                total += source.size
                if total > SHARD_BYTES:
                    break
                chosen.append(source)
        else:
            chosen += [source for source in small if source.is_damaged]
        return chosen
