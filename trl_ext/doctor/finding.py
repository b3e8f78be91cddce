"""What a check found: good, worth knowing, or in the way, and what to do about it."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """`PASS`: nothing to do. `WARN`: it works, but not as well as it could. `FAIL`: runs will not work."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: What was looked at, in a word or two.
        status: How it is.
        found: What there is.
        remedy: What to do; empty where there is nothing to.
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
