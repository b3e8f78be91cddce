"""The one exception that means: the user can fix this, and the message says how."""


class UserError(Exception):
    """Something the user gave cannot work. The command line prints it without a traceback and exits with 2.

    Args:
        problems: One sentence, or several found in one go. Each says what was given, what is allowed, and
            what to do next.
        about: What the problems were found in (a recipe's path, say); named when there are several.
    """

    def __init__(self, problems: str | list[str], *, about: str = "") -> None:
        self.problems = [_printable(problem) for problem in ([problems] if isinstance(problems, str) else problems)]
        self.about = about
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.about}: {self.problems[0]}" if self.about else self.problems[0]
        title = f"{len(self.problems)} problems" + (f" in {self.about}" if self.about else "")
        return "\n".join([f"{title}:", *(f"  {i}. {p}" for i, p in enumerate(self.problems, 1))])


def _printable(text: str) -> str:
    """What was given may hold anything; a terminal is shown no control characters but our own line breaks."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
