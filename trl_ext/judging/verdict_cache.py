"""Keep paid verdicts on disk, so that an interrupted evaluation pays for nothing twice.

Each judge has one file of JSON lines in `$TRL_EXT_CACHE/verdicts` (default: `~/.cache/trl-ext/verdicts`). Its name has a
digest of everything that a verdict depends on besides the question: the kind of judge, its model, its settings. The key of a
line is a digest of the text that the judge read, so the template, the prompt, both answers and their order are in it.

A line is appended by a single write and synced at once. A process that is killed leaves at most one torn line: torn lines
are skipped, and every write begins with a line break, so that the next line is whole. Several processes may append to one
file, and each finds the others' lines at its next miss. A network file system may tear lines of two machines that write at
the same moment; those verdicts are asked for again.
"""

import json
import logging
import os
import re
import threading
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.judging.judge import Verdict
from trl_ext.support.errors import UserError

VERSION = 1
"""Part of every digest. Raise it if a verdict is read differently from the same words."""
LONGEST = 600
"""Characters of the judge's words that are kept: the beginning and, twice as long, the end."""

log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """What a judge said to one question.

    Attributes:
        words: The judge's own words, shortened in the cache; empty for a judge without words.
        prompt_tokens: Tokens read, or `None` if they were not counted.
        completion_tokens: Tokens written, or `None` if they were not counted.
        was_cut: Whether the reply reached the limit on its length.
    """

    verdict: Verdict
    words: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    was_cut: bool = False


def default_directory() -> Path:
    """`verdicts` in `$TRL_EXT_CACHE` if that is set, otherwise `~/.cache/trl-ext/verdicts`."""
    given = os.environ.get("TRL_EXT_CACHE")
    return (Path(given).expanduser() if given else Path.home() / ".cache" / "trl-ext") / "verdicts"


class VerdictCache:
    """The replies of one judge. Threads may share an instance; each process has its own."""

    def __init__(self, name: str, identity: dict[str, Any], directory: Path | str | None = None) -> None:
        """
        Args:
            name: Name of the judge, for people who look at the folder.
            identity: Everything that a verdict depends on besides the text that the judge reads, as JSON has it.
            directory: Folder of all judges' files (default: `default_directory()`).
        """
        digest = _digest(json.dumps({"version": VERSION, **identity}, sort_keys=True))
        readable = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:60] or "judge"
        folder = Path(directory).expanduser() if directory else default_directory()
        self.path = folder / f"{readable}-{digest[:16]}.jsonl"
        self._replies: dict[str, Reply] = {}
        self._read_to = 0
        self._is_writable = True
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Make the file, if there is none.

        Raises:
            UserError: It cannot be written. Verdicts that are paid for would be lost.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(self._open())
        except OSError as error:
            raise UserError(
                f"Verdicts cannot be kept in {self.path.parent} ({error.strerror or error}). An interrupted evaluation would pay "
                "for them twice. Set TRL_EXT_CACHE to a folder that can be written."
            ) from None

    def get(self, text: str) -> Reply | None:
        """The reply to a text, or `None`."""
        key = _digest(text)
        with self._lock:
            if key not in self._replies:
                self._read_on()
            return self._replies.get(key)

    def put(self, text: str, reply: Reply) -> None:
        """Keep a reply. It is on disk when this returns. A failure to write is logged once, and the evaluation continues."""
        key, reply = _digest(text), reply._replace(words=shortened(reply.words))
        line = json.dumps({"key": key, **reply._asdict(), "verdict": reply.verdict.value})
        with self._lock:
            self._replies[key] = reply
            if not self._is_writable:
                return
            try:
                self._append(f"\n{line}\n".encode())
            except OSError as error:
                self._is_writable = False
                log.warning(
                    "Verdicts can no longer be kept in %s (%s). The evaluation continues. If it is interrupted, later verdicts "
                    "have to be asked for again.",
                    self.path,
                    error.strerror or error,
                )

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _append(self, line: bytes) -> None:
        descriptor = self._open()
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError("the disk is full")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read_on(self) -> None:
        """Read the whole lines that were added since the last time."""
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._read_to:
                    self._read_to = 0  # the file was removed and made again
                file.seek(self._read_to)
                added = file.read()
        except OSError:
            return
        whole = added.rfind(b"\n") + 1
        self._read_to += whole
        for line in added[:whole].splitlines():
            if entry := _entry(line):
                key, reply = entry
                self._replies.setdefault(key, reply)


def shortened(words: str) -> str:
    """Words without their middle, if they are long."""
    beginning, end = LONGEST // 3, LONGEST - LONGEST // 3
    return words if len(words) <= LONGEST else f"{words[:beginning]} […] {words[-end:]}"


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=16).hexdigest()


def _entry(line: bytes) -> tuple[str, Reply] | None:
    """Key and reply of a line; `None` for a torn or foreign one."""
    try:
        record = json.loads(line)
        key, verdict, words = record["key"], Verdict(record["verdict"]), record["words"]
        tokens = record["prompt_tokens"], record["completion_tokens"]
        was_cut = record["was_cut"]
    except (ValueError, KeyError, TypeError):
        return None
    are_counts = all(count is None or (type(count) is int and count >= 0) for count in tokens)
    if not (isinstance(key, str) and isinstance(words, str) and isinstance(was_cut, bool) and are_counts):
        return None
    return key, Reply(verdict, words, *tokens, was_cut)
