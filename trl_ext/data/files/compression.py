"""Open files that may be compressed, and recognise those that are damaged or named wrongly."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import lzma
import zlib
from pathlib import Path
from typing import IO

from trl_ext.data.files.names import compression

FORMATS = {
    ".gz": ("gzip", b"\x1f\x8b"),
    ".bz2": ("bzip2", b"BZh"),
    ".xz": ("xz", b"\xfd7zXZ\x00"),
    ".zst": ("zstd", b"\x28\xb5\x2f\xfd"),
}
"""{ending: the name of the compression, and the bytes that every such file begins with}."""
ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""Raised while a damaged file is read."""
CHUNK = 2**17


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file, decompressed as its name says; reading raises one of `ERRORS` if they are damaged."""
    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstd}
    return opener.get(compression(path), open)(path, "rb")


def open_text(path: Path, newline: str | None = None) -> io.TextIOWrapper:
    """The same as UTF-8 text, without a byte order mark."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline=newline)


def wrong_name(path: Path) -> str | None:
    """What is wrong if a file's beginning and its name disagree on its compression, or if it needs a missing package.

    The text completes "a.json.gz cannot be read: …"; `None` if both agree.
    """
    ending = compression(path)
    with path.open("rb") as file:
        start = file.read(8)
    found = next((name for name, (_, magic) in FORMATS.items() if start.startswith(magic)), None)
    if found is not None and found != ending:
        right = path.with_suffix(found) if ending else path.with_name(path.name + found)
        return f"it is compressed with {FORMATS[found][0]}, but its name does not end in {found}. Rename it to {right.name}."
    if found is None and ending is not None and start:
        return f"it is not a {FORMATS[ending][0]} file. If it is not compressed, rename it to {path.stem}."
    if ending == ".zst" and importlib.util.find_spec("zstandard") is None:
        return "`.zst` files need a package that is not installed. Install it with `pip install zstandard`."
    return None


def damage(path: Path, error: Exception) -> str:
    """What one of `ERRORS` means; the text completes "a.json.gz cannot be read: …"."""
    ending = compression(path)
    if ending is None or (isinstance(error, OSError) and error.errno is not None):
        return f"{getattr(error, 'strerror', None) or error}."
    name = FORMATS[ending][0]
    what = "it is truncated" if isinstance(error, EOFError) else f"its {name} data is damaged ({error})"
    return f"{what}. Copy or download the file again."


def truncated_zstd(path: Path) -> str | None:
    """A sentence like that of `damage` if a .zst file is damaged; `None` for other files.

    Of a truncated file, `datasets` and pandas read the rows that are left and report no error, so it is read to its end
    before.
    """
    if compression(path) != ".zst":
        return None
    try:
        with open_bytes(path) as file:
            while file.read(CHUNK):
                pass
    except ERRORS as error:
        return damage(path, error)
    return None


def _open_zstd(path: Path, mode: str) -> IO[bytes]:
    return io.BufferedReader(_ZstdReader(path.open(mode)), CHUNK)


class _ZstdReader(io.RawIOBase):
    """Decompressed bytes of a zstd file of one or more frames. A truncated frame is an error, as it is for gzip."""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self._file, self._new, self._error = file, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError
        self._frame, self._compressed, self._ready = None, b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while not self._ready and (self._compressed or self._fill()):
            self._decompress()
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _fill(self) -> bool:
        """Read more of the file; False at its end."""
        self._compressed = self._file.read(CHUNK)
        if not self._compressed and self._frame is not None:
            raise EOFError("Compressed file ended before the end-of-stream marker was reached")
        return bool(self._compressed)

    def _decompress(self) -> None:
        self._frame = self._frame or self._new()
        try:
            self._ready = self._frame.decompress(self._compressed)
        except self._error as error:
            raise OSError(str(error)) from error
        self._compressed = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None

    def close(self) -> None:
        self._file.close()
        super().close()
