"""Data that cannot teach anything is refused before any weights are loaded."""

from __future__ import annotations

from trl_ext.data.formats.outcome import Note
from trl_ext.data.report import Report, are, count, every
from trl_ext.support.errors import UserError


def require_rows(report: Report) -> None:
    """Refuse a split of which nothing is left.

    Raises:
        UserError: every row was dropped, with the reasons.
    """
    if report.rows_out != 0:
        return
    reasons = "; ".join(
        f"{count(dropped.rows, 'rows')}: {reason} (first: row {dropped.first:,})"
        for reason, dropped in report.dropped.items()
    )
    raise UserError(
        f"{report.where}: {_none(report.rows_in)} can be used, read as {report.title}: "
        f"{reasons}. Correct the data, or name the right columns with `dataset_columns`."
    )


def require_teachable(report: Report) -> None:
    """Refuse training data on which every gradient is zero or pushes one way only.

    Raises:
        UserError: all pairs identical, all answers empty, or one label only.
    """
    n, where = report.rows_out, report.where
    if not n:
        return
    if report.paired:
        if report.notes.get(Note.IDENTICAL.value) == n:
            raise UserError(
                f"{where}: chosen and rejected are the same in {every(n, 'pairs')}, so no preference can "
                "be learned; check which columns they were read from (`dataset_columns`)."
            )
        return
    if report.notes.get(Note.EMPTY_COMPLETION.value) == n:
        raise UserError(f"{where}: the answer is empty in {every(n, 'rows')}; check `dataset_columns`.")
    if 0 in (report.desirable, report.undesirable):
        only = "desirable" if report.undesirable == 0 else "undesirable"
        raise UserError(
            f"{where}: {every(n, 'answers')} {are(n)} {only}; losses on single answers need both labels. "
            "Add the missing class, or train on pairs."
        )


def _none(rows: int) -> str:
    return "not even its only row" if rows == 1 else f"none of its {rows:,} rows"
