"""Represent the result of a check: pass, warning or failure, with a remedy."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """`PASS`: nothing to do. `WARN`: runs work, with a limitation. `FAIL`: runs will not work."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: Name of the check.
        status: Its result.
        found: Description of what was found.
        remedy: What to do; empty if nothing.
    """

    check: str
    status: Status
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain data, for JSON."""
        return asdict(self)


def passed(check: str, found: str) -> Finding:
    return Finding(check, Status.PASS, found)


def warns(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, Status.WARN, found, remedy)


def fails(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, Status.FAIL, found, remedy)


def first_line(error: BaseException) -> str:
    """An exception on one line: its type, and the first line of its message if there is one."""
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
