"""Questions until there are no more: typed at a prompt, or read from a pipe."""

import contextlib
from collections.abc import Iterable

from trl_ext.chat import screen
from trl_ext.chat.answer import Settings
from trl_ext.chat.side import Side, sides_of
from trl_ext.runs.loaded import Opened
from trl_ext.support.errors import UserError

COMMANDS = "/reset forgets the conversation, /system TEXT begins one with a system message, /quit or Ctrl-D leaves"


def typed(opened: Opened, settings: Settings, system: str | None, *, is_compared: bool) -> None:
    """A conversation in a terminal. Ctrl-C stops the answer in progress; between answers it leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (what was typed before comes back with the arrow keys)
    sides = sides_of(opened, settings, system, is_compared=is_compared)
    show = screen.best() if is_compared else screen.written
    print(f"{_introduction(opened, is_compared)}\n{COMMANDS}; Ctrl-C stops an answer.")
    while True:
        try:
            line = input("\n> ").strip()
        except EOFError:
            print()
            return
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        try:
            if command in ("/reset", "/system"):
                system = (rest.strip() or None) if command == "/system" else system
                _begin_again(sides, system)
            elif command == "/help":
                print(f"{COMMANDS}.")
            elif command.startswith("/") and command[1:].isalpha():
                print(f"There is no command {command}: {COMMANDS}.")
            elif line:
                show(sides, line, True)
        except UserError as error:
            print(error)


def piped(
    opened: Opened,
    settings: Settings,
    system: str | None,
    questions: Iterable[str],
    show: screen.Show,
    *,
    is_compared: bool,
) -> None:
    """An answer to each question that is not empty, every one a conversation of its own."""
    for question in questions:
        if question.strip():
            sides = sides_of(opened, settings, system, is_compared=is_compared)
            show(sides, question.rstrip("\n"), False)


def _begin_again(sides: list[Side], system: str | None) -> None:
    for side in sides:
        side.conversation.start_again(system)
    print("A new conversation" + (f", with the system message: {system}" if system else "."))


def _introduction(opened: Opened, is_compared: bool) -> str:
    start = opened.began_with
    what = "a model that no run left here" if start is None else f"{opened.recipe.title} from {start}"
    return f"{opened.directory}: {what}" + (f". The base is {opened.base_in_words}." if is_compared else ".")
