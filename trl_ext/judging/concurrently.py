"""Call a function on many items with a bounded number of threads; give the results in the order of the items."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

GRACE_SECONDS = 10.0
"""How long an interrupted caller waits for calls that have begun, so that what they paid for is kept."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def concurrently(call: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """The results in the order of the items, each as soon as it and those before it are known.

    At most `workers` calls run at a time. After an exception no further call begins; the results before it are given, then
    it is raised. The same holds for a caller that closes the iterator. The threads are daemons, unlike those of
    `ThreadPoolExecutor`, so that a process that is interrupted need not wait for a slow server.
    """
    futures: list[Future[Result]] = [Future() for _ in items]
    tasks = iter(zip(items, futures, strict=True))
    taking, stopped = threading.Lock(), threading.Event()

    def work() -> None:
        while True:
            with taking:
                task = None if stopped.is_set() else next(tasks, None)
            if task is None:
                return
            item, future = task
            try:
                future.set_result(call(item))
            except BaseException as error:
                stopped.set()
                future.set_exception(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(items)))]
    for thread in threads:
        thread.start()
    try:
        for future in futures:
            yield future.result()
    finally:
        stopped.set()
        end = time.monotonic() + GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
