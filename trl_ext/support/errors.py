"""Define `UserError`, the exception for errors that the user can fix."""

from trl_ext.support.counts import count


class UserError(Exception):
    """An error in what the user gave. The command line prints it without a traceback and exits with 2.

    Args:
        problems: One message, or several. Each says what was given, what is allowed, and what to do.
        about: Where the problems were found (a recipe's path, say).
        next_step: A sentence about what helps with all of them.
    """

    def __init__(self, problems: str | list[str], *, about: str = "", next_step: str = "") -> None:
        self.problems = [_printable(problem) for problem in ([problems] if isinstance(problems, str) else problems)]
        self.about, self.next_step = about, _printable(next_step)
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            only = f"{self.about}: {self.problems[0]}" if self.about else self.problems[0]
            return f"{only} {self.next_step}".rstrip()
        title = f"{count(len(self.problems), 'problems')}" + (f" in {self.about}" if self.about else "")
        listed = [f"  {i}. {p}" for i, p in enumerate(self.problems, 1)]
        return "\n".join([f"{title}:", *listed, *([self.next_step] if self.next_step else [])])


def _printable(text: str) -> str:
    """Escape control characters in quoted user input; line breaks of our own messages stay."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
