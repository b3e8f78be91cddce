"""Answer questions that are typed at a prompt or read from a pipe, until there are no more."""

import contextlib
from collections.abc import Iterable, Iterator

from trl_ext.chat import screen
from trl_ext.chat.answer import Settings
from trl_ext.chat.side import Side, sides_of
from trl_ext.runs.loaded import Opened
from trl_ext.support.errors import UserError
from trl_ext.support.terminal import wrap

COMMANDS = """Commands:
  /reset         start a new conversation
  /system TEXT   start a new conversation with a system message
  /quit, Ctrl-D  exit
  Ctrl-C         stop the current answer"""


def typed(opened: Opened, settings: Settings, system: str | None, *, is_compared: bool) -> None:
    """Hold a conversation in a terminal. Ctrl-C stops the current answer; between answers it exits."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys recall earlier questions)
    sides = sides_of(opened, settings, system, is_compared=is_compared)
    show = screen.best() if is_compared else screen.written
    print(f"{wrap(_introduction(opened, is_compared))}\n{COMMANDS}")
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
                print(COMMANDS)
            elif command.startswith("/") and command[1:].isalpha():
                print(f"There is no command {command}.\n{COMMANDS}")
            elif line:
                show(sides, line, True)
        except UserError as error:
            print(wrap(str(error)))


def piped(
    opened: Opened,
    settings: Settings,
    system: str | None,
    questions: Iterable[str],
    show: screen.Show,
    *,
    is_compared: bool,
) -> None:
    """Answer each question that is not empty, in a conversation of its own."""
    for question in _decoded(questions):
        if question.strip():
            sides = sides_of(opened, settings, system, is_compared=is_compared)
            show(sides, question.rstrip("\n"), False)


def _decoded(questions: Iterable[str]) -> Iterator[str]:
    """The questions. UserError if they are text of another encoding than standard input is read with."""
    try:
        yield from questions
    except UnicodeDecodeError as error:
        raise UserError(
            f"Standard input is not text in {error.encoding}: byte {error.object[error.start]:#x} cannot be read. Set the variable "
            "PYTHONIOENCODING to the encoding of the text, for instance utf-8."
        ) from error


def _begin_again(sides: list[Side], system: str | None) -> None:
    for side in sides:
        side.conversation.start_again(system)
    print(wrap(f"New conversation with the system message: {system}" if system else "New conversation."))


def _introduction(opened: Opened, is_compared: bool) -> str:
    start = opened.began_with
    if start is None:
        model = "a model without a recipe"
    elif opened.is_run:
        model = f"{opened.recipe.title}, trained from {start}"
    else:
        model = f"an adapter without a recipe, on {start}"
    return f"{opened.directory}: {model}" + (f". The base is {opened.base_in_words}." if is_compared else ".")
