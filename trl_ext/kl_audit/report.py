"""Print a KL audit: a table of the cells, and a legend."""

from __future__ import annotations

import math
from typing import Any

from rich.text import Text

from trl_ext.rl import truth_table
from trl_ext.support import terminal
from trl_ext.support.counts import count


def table(audit: Any, title: str, chosen: tuple[str, str, str] | None) -> Any:
    """A table with a row per cell; `chosen`, the recipe's own cell, is marked with ◀."""
    error = f" ± {audit.kl_se:.2f}" if audit.kl_se else ""
    table = terminal.plain_table(title=f"{title}: KL {audit.kl:.2f}{error} nats per completion", title_justify="left")
    for heading in ("estimator,\nplace, level", "value\nbias", "value\nvar.", "gradient\ncosine", "gradient\nerror"):
        table.add_column(heading, justify="left" if "level" in heading else "right", no_wrap=True)
    table.add_column("gradient\nvar.", justify="right", no_wrap=True)
    is_sampled = audit.n is not None
    if not is_sampled:
        table.add_column("expected\ngradient")
    for row in audit.rows:
        is_exact = row.cell in truth_table.EXACT
        name = Text(" ".join(row.cell), style="bold green" if is_exact else "")
        table.add_row(
            name + (" ◀" if row.cell == chosen else ""),
            _percent(row),
            f"{row.value_variance:.1f}",
            _cosine(row),
            _error(row),
            f"{row.gradient_variance:.0f}",
            *([] if is_sampled else [Text(truth_table.GRADIENTS[row.cell][0], style="green" if is_exact else "")]),
            end_section=row.cell[1:] == ("loss", "sequence"),
        )
    return table


def _percent(row: Any) -> str:
    error = f" ± {100 * row.value_bias_se:.0f}" if row.value_bias_se else ""
    return f"{100 * row.value_bias + 0.0:+.0f}{error} %" if abs(row.value_bias) > 1e-9 else f"0{error} %"


def _cosine(row: Any) -> str:
    """The cosine; an estimate beyond 1 is printed as 1."""
    if math.isnan(row.cosine):
        return "—"
    return f"{max(-1.0, min(row.cosine, 1.0)):.2f}" + (f" ± {row.cosine_se:.2f}" if row.cosine_se else "")


def _error(row: Any) -> str:
    """The relative error, or an upper bound if it cannot be distinguished from zero."""
    if not row.squared_error_se:
        return f"{row.error:.2f}"
    if row.squared_error < 2 * row.squared_error_se:
        return f"< {math.sqrt(max(row.squared_error, 0) + 2 * row.squared_error_se):.2f}"
    return f"{row.error:.2f} ± {row.squared_error_se / (2 * row.error):.2f}"


def legend(audits: dict[str, Any], chosen: tuple[str, str, str] | None = None) -> list[str]:
    """Explanations of the columns and symbols, one line each."""
    lines = [f"{name}: {text}." for name, text in truth_table.VALUES.items()]
    lines += [
        "Value: bias in % of the KL, variance of one completion in KL². Gradient: cosine and relative error of the expected "
        "gradient against ∇KL(π‖ref), variance of one completion in |∇KL|². — means that the gradient is zero or cannot be "
        "distinguished from zero.",
        "Green: the expected gradient is that of the reverse KL, which maximising reward − β·KL(π‖ref) requires. "
        "ref: the reference policy.",
    ]
    if chosen is not None:
        lines.append("◀: the setting of the recipe.")
    if "sampled" in audits:
        lines.append(
            "Sampled: ± is one standard error, < is an upper bound (two standard errors). Gradients are taken for "
            f"{audits['sampled'].n_weights:,} adapter weights. The true KL is summed over the vocabulary at each state."
        )
        if any(abs(row.cosine) > 1 for row in audits["sampled"].rows):
            lines.append(
                "A sampled cosine is a quotient of unbiased estimates, so it can exceed 1. The table then prints 1, the JSON "
                "the estimate."
            )
    return lines


def about_small_kl(audit: Any, needed: int) -> str:
    """Sentences on a KL that is too small for its estimators to be measured.

    Args:
        audit: Holds the KL, its standard error and the number of completions.
        needed: Completions that would be enough; 0 if no number is.
    """
    if audit.kl <= 0:
        return "KL 0: policy and reference are the same, and nothing can be estimated. Train the run further."
    more = f"Sample more (`--n {needed}`), or train" if 0 < needed <= MOST_COMPLETIONS else "Train"
    return (
        f"KL {audit.kl:.2g} ± {audit.kl_se:.1g} nats per completion: policy and reference are almost the same, and nothing can be "
        f"estimated. With {audit.n:,} completions the standard error of k1 is larger than the KL. {more} the run further."
    )


MOST_COMPLETIONS = 100_000
"""Completions that somebody may be asked to sample."""


def noise_note(audits: dict[str, Any]) -> str | None:
    """A sentence on the cosines that are lost in sampling noise although the exact ones are known; `None` if there are none."""
    if "sampled" not in audits:
        return None
    sampled, exact = ({row.cell: math.isnan(row.cosine) for row in audits[name].rows} for name in ("sampled", "exact"))
    lost = sum(sampled[cell] and not exact[cell] for cell in sampled)
    n = audits["sampled"].n
    if not lost:
        return None
    return f"{lost} of {count(len(sampled), 'sampled cosines')} (—) are lost in noise with {count(n, 'completions')}. Sample more, for example with `--n {max(512, 4 * n)}`."
