"""Keep reference log-probabilities on disk, for all losses, seeds and subsets of the data.

A row is one completion: its per-token log-probabilities under the reference. Its key is a digest of the identity of the
reference and of the token ids of prompt and completion, after truncation. Nothing else changes the values, so nothing else
is part of the key: not the loss or its β, the learning rate, the seed, the adapter, the output directory or the other
examples. Sums, averages and weighted sums such as LD-DPO's are computed by the reader. Padding and packing change a value
only by rounding, so they are not part of the key.

Images are not part of the key. Completions that depend on images must not be cached.

Rows are stored in a few immutable files, written by an atomic rename (`shard`). So readers and writers need no locks, even
on network file systems, and a damaged file affects only its own rows. A database such as SQLite would need locks (its
write-ahead log needs shared memory, hence one machine), has no checksums of pages, and a bad page would damage a file that
cannot be replaced while other processes use it.
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
"""Rows are written when this many bytes are waiting."""
SAVE_SECONDS = 60.0
"""Rows are written when the first of them has waited this long. A killed process loses the rows of this time."""
MERGE_FILES = 8
"""When there are this many shards smaller than a quarter of `SHARD_BYTES`, the next write merges them."""
TOUCH_SECONDS = 600.0
"""Interval at which a shard that is read is marked as used, in seconds."""

log = logging.getLogger(__name__)


def key_of(prompt_ids: Sequence[int], completion_ids: Sequence[int], identity: bytes = b"") -> bytes:
    """Digest of a completion after its prompt, under one reference: 16 bytes.

    Args:
        prompt_ids, completion_ids: Token ids.
        identity: Digest of the reference, up to 64 bytes.
    """
    prompt = np.ascontiguousarray(prompt_ids, dtype="<i8")
    completion = np.ascontiguousarray(completion_ids, dtype="<i8")
    digest = blake2b(len(prompt).to_bytes(8, "little"), digest_size=shard.KEY_BYTES, key=identity)
    digest.update(prompt)
    digest.update(completion)
    return digest.digest()


class ReferenceCache:
    """Per-token log-probabilities of completions under one reference.

    Any number of processes may use the same directory at once, each with its own instance. Rows written by one process are
    found by the others at their next miss. A damaged row is a miss. If the cache cannot be written (disk full, no
    permission), a warning is logged once and the run continues without writing.

    Attributes:
        hits: Number of distinct rows that were in the cache when `get` was first called for them.
        misses: Number of distinct rows that were not. Later calls for the same row are not counted.
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
            identity: Digest of everything the values depend on besides the tokens, usually
                `identity.reference_identity(model)`.
            directory: Root of the cache, shared by all identities (default: `default_directory()`).
            limit_bytes: Maximum size of the root in bytes. Above it, the least recently used shards are removed; `None` for
                no limit.
            about: Description of the reference, shown by `trl-ext cache`.

        Raises:
            ValueError: `identity` is not a valid name of a folder.
        """
        self.hits = self.misses = 0
        self._asked: set[bytes] = set()
        self._root = Path(directory).expanduser() if directory else default_directory()
        self._folder = folder.identity_folder(self._root, identity)
        self._digest = blake2b(identity.encode(), digest_size=16).digest()
        self._limit_bytes, self._about = limit_bytes, about
        self._shards: dict[str, Shard] = {}
        self._ignored: set[str] = set()  # damaged or unreadable files
        self._unsaved: dict[bytes, np.ndarray] = {}
        self._unsaved_bytes = 0
        self._unsaved_since = 0.0
        self._is_writable = True

    def key(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> bytes:
        """Key of a completion, 16 bytes.

        Args:
            prompt_ids: Token ids of the prompt as the model reads them, after truncation, without padding.
            completion_ids: Token ids of the completion.
        """
        return key_of(prompt_ids, completion_ids, self._digest)

    def get(self, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """Per-token log-probabilities of each key, float32 of shape (tokens,); `None` for a miss.

        These are the scored tokens: all tokens of the completion, without its first if the prompt is empty.
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
        """Add the per-token log-probabilities of each key, shape (tokens,).

        This instance finds them at once, other processes after the next write (`flush`, or after a minute or 64 MiB). Rows
        that are not finite are not kept, so that an error does not outlive the run.
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
        """Write all waiting rows to disk."""
        if not self._unsaved or not self._is_writable:
            return
        try:
            self._write()
        except OSError as error:
            self._is_writable = False
            log.warning(
                "The reference cache cannot be written (%s). This run continues without caching its reference "
                "log-probabilities. To cache them, free some space, or set TRL_EXT_CACHE to a writable directory.",
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
        """Fill the missing rows of `found` from the known shards."""
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
        """Update the list of shards. Returns whether any were added."""
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
            log.warning("Reference cache: removed %s because %s. Its rows are computed again.", path, error)
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
        # Remove them only now that all their valid rows are in the new shard.
        for source in absorbed:
            folder.remove(source.path)
            self._shards.pop(source.path.name, None)
        self._unsaved, self._unsaved_bytes = {}, 0
        self._open(path)
        if self._limit_bytes is not None:
            folder.evict(self._root, self._limit_bytes, keep=path)

    def _to_absorb(self) -> list[Shard]:
        """Shards to merge into the next one: damaged shards, and small shards if there are many."""
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
