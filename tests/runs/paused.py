"""The command line, which waits at a chosen place for a signal: tests need not hit a moment.

`python -m tests.runs.paused PLACE run RECIPE [FLAGS]`, where PLACE is a module, before whose import it waits and says so; or
the number of a step, after which it goes on when asked to stop; or `deaf-` and such a number: then it never goes on.
"""

import sys
import time
from types import SimpleNamespace

from trl_ext.cli import main
from trl_ext.runs.signals import guard

SECONDS = 900
"""For a run that nobody signals any more."""


def wait(is_over=lambda: False) -> None:
    end = time.monotonic() + SECONDS
    while not is_over():
        assert time.monotonic() < end, "no signal came"
        time.sleep(0.01)


def before_import(module: str) -> None:
    def find_spec(name, path=None, target=None) -> None:
        if name == module:
            print(f"waiting before {module}", flush=True)
            wait()

    sys.meta_path.insert(0, SimpleNamespace(find_spec=find_spec))


def after_step(step: int, is_over) -> None:
    from trl_ext.runs.callbacks import StopWhenAsked

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == step:  # logged and saved
            wait(is_over)

    StopWhenAsked.on_step_begin = on_step_begin


if __name__ == "__main__":
    place, *words = sys.argv[1:]
    if place.isdigit():
        after_step(int(place), lambda: guard.is_requested)
    elif place.startswith("deaf-"):
        after_step(int(place.removeprefix("deaf-")), lambda: False)
    else:
        before_import(place)
    sys.exit(main(words))
