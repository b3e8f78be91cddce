"""Refuse data that nothing can be learned from, before any weights are loaded."""

from __future__ import annotations

from trl_ext.data.formats.row_outcome import Note
from trl_ext.data.report import Report
from trl_ext.support.counts import are, count, every
from trl_ext.support.errors import UserError


def require_rows(report: Report) -> None:
    """Refuse a split whose rows were all dropped.

    Raises:
        UserError: No row is left, with the reasons.
    """
    if report.rows_out != 0:
        return
    reasons = "; ".join(
        f"{count(dropped.rows, 'rows')}: {reason} (first: row {dropped.first:,})"
        for reason, dropped in report.dropped.items()
    )
    raise UserError(
        f"{report.where}, read as {report.title}: {_none(report.rows_in)} can be used. Dropped were "
        f"{reasons}. Correct the data, or choose the right columns with `dataset_columns`."
    )


def require_teachable(report: Report) -> None:
    """Refuse training data without any preference in it.

    Raises:
        UserError: All pairs are identical, all completions are empty, or all labels are the same.
    """
    n, where = report.rows_out, report.where
    if not n:
        return
    if report.paired:
        if report.notes.get(Note.IDENTICAL.value) == n:
            raise UserError(
                f"{where}: chosen and rejected are identical in {every(n, 'pairs')}, so no preference can "
                "be learned. Check which columns they were read from (`dataset_columns`)."
            )
        return
    if report.notes.get(Note.EMPTY_COMPLETION.value) == n:
        raise UserError(f"{where}: the completion is empty in {every(n, 'rows')}. Check `dataset_columns`.")
    if 0 in (report.desirable, report.undesirable):
        only = "desirable" if report.undesirable == 0 else "undesirable"
        raise UserError(
            f"{where}: {every(n, 'completions')} {are(n)} {only}, but losses on labelled completions need both "
            "labels. Add completions with the other label, or train on pairs."
        )


def _none(rows: int) -> str:
    return "not even the only row" if rows == 1 else f"none of {rows:,} rows"
