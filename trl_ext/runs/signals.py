"""Handle SIGINT, SIGTERM and SIGHUP: stop a run at the end of its step, with a checkpoint.

Before training begins, the first signal raises `Interrupted` immediately. Inside `Guard.deferred` it sets
`Guard.is_requested`, which training looks at when a step ends (`trl_ext.runs.callbacks.StopWhenAsked`). A second signal
ends the process and its children at once, whatever call the main thread is in.
"""

import contextlib
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from trl_ext.runs import child_processes
from trl_ext.support.termination import EXIT_CODE, SAME, Interrupted, leave

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

UNWIND = 3.0
"""Default of `Guard.unwind`."""

GRACE = 120
"""Seconds for writing a checkpoint after the launcher of this process has ended."""

LAUNCHED = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")
"""Variables that `torchrun` and `accelerate launch` set for the processes they start."""


class Guard:
    """Signal handling of this process. Entered by commands that train; elsewhere the first signal ends the command (`trl_ext.support.termination`).

    Attributes:
        is_requested: Whether a signal asked to stop.
        last_words: Returns a sentence on what is kept if the process ends now.
        unwind: Seconds until the process is stopped if a library swallows or replaces `Interrupted` and continues.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self.last_words: Callable[[], str] = lambda: "Nothing was trained yet."
        self.unwind = UNWIND
        self._is_deferred = False
        self._deadline = math.inf  # of this process, on the monotonic clock
        self._has_raised = False
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "Guard":
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may set handlers
        child_processes.bind()
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        # Ignored signals stay ignored: `nohup` and shells ignore some for background jobs.
        heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._handlers = {number: signal.signal(number, self._on_signal) for number in heeded}
        self._socket, received = socket.socketpair()
        self._socket.setblocking(False)
        signal.set_wakeup_fd(self._socket.fileno(), warn_on_full_buffer=False)
        launcher = os.getppid() if any(name in os.environ for name in LAUNCHED) else None
        threading.Thread(target=self._watch, args=(received, launcher), name="signals", daemon=True).start()
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if not self._handlers:
            return
        is_replaced = self._has_raised and (kind is None or not issubclass(kind, Interrupted))
        if self._has_raised:
            child_processes.kill()
        signal.set_wakeup_fd(-1)
        self._socket.close()  # ends the thread
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        child_processes.release()
        words = self.last_words()
        self.__init__()
        if is_replaced:
            raise Interrupted(words) from None

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal only sets `is_requested`, which training checks at the end of each step.

        Raises:
            Interrupted: At the end of the block, if a signal came and training did not act on it.
        """
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        if self.is_requested:
            self._has_raised = True
            raise Interrupted(self.last_words())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            return  # `_watch` counts them
        self.is_requested = True
        if number == getattr(signal, "SIGHUP", None):
            leave(self._terminals)
        if not self._is_deferred:
            self._has_raised, self._deadline = True, time.monotonic() + self.unwind
            raise Interrupted(self.last_words())
        say(
            f"{signal.Signals(number).name}: finishing this step and saving a checkpoint. Send it again to stop immediately."
        )

    def _watch(self, received: socket.socket, launcher: int | None) -> None:
        """Run in a second thread, because the main one may be in a call that returns to Python late or never."""
        is_asked = False
        received.settimeout(1)
        while time.monotonic() < self._deadline:
            try:
                numbers = received.recv(64)
            except TimeoutError:
                numbers = None
            if numbers == b"":
                return
            if set(numbers or ()).intersection(SIGNALS):
                if is_asked:
                    break
                is_asked = True
                # Not distinguished by the time they are read: on a busy machine this thread may be late for both.
                time.sleep(SAME)
                received.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    received.recv(64)
                received.settimeout(1)
            if launcher is not None and os.getppid() != launcher:
                launcher, self._deadline = None, time.monotonic() + GRACE
                if not is_asked:
                    os.kill(os.getpid(), signal.SIGTERM)
        self._stop_at_once()

    def _stop_at_once(self) -> None:
        try:
            say(f"stopped immediately. {self.last_words()}")
            child_processes.kill()
        finally:
            os._exit(EXIT_CODE)


guard = Guard()
"""The guard of this process."""


def say(text: str) -> None:
    """Write a line to stderr of the main process, bypassing buffers that a signal handler must not touch."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):
            os.write(2, f"\ntrl-ext: {text}\n".encode())
