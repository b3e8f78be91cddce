"""Describe the measured differences of a merged model, in words and as rows of a table."""

import math

from trl_ext.export.fidelity import Drift, Fidelity, FileDrift
from trl_ext.export.gguf.quantising import LARGEST
from trl_ext.support.counts import are, size_of
from trl_ext.support.messages import joined

SMALL, LARGE = 0.1, 0.5
"""Shares of the change made by training. A merge with a larger share than the second may undo part of the training."""

NOTICEABLE = 0.1
"""Share of the total difference above which the rounding of the merged weights is reported as avoidable."""

SIMILAR = 2.0
"""Differences within this factor count as equal."""

CLOSE = 1e-3
"""KL per token, in nats, from the 16-bit model up to which a file counts as close to it."""

HEADINGS = ("", "KL/token", "max per token", "max per completion", "same top token")


def rows(fidelity: Fidelity, dtype: str) -> list[tuple[str, ...]]:
    """One row per comparison, under `HEADINGS`.

    Args:
        dtype: Of the merged weights.
    """
    compared = [
        ("trained → merged", fidelity.total),
        (_bases(fidelity), fidelity.quantisation),
        (f"rounding only, to {dtype}", fidelity.rounding),
        *((f"merged → {file.name}", file.from_merged) for file in fidelity.files),
        *((f"trained → {file.name}", file.from_trained) for file in fidelity.files),
        ("for scale: base → trained", fidelity.training),
    ]
    return [(what, *_numbers(drift)) for what, drift in compared if drift is not None]


def in_words(fidelity: Fidelity, dtype: str) -> str:
    """Report the size of the difference relative to the change made by training, and its source."""
    if fidelity.total is None:
        return "Nothing was merged: the run trained all weights."
    total, training = max(fidelity.total.kl, 0), fidelity.training.kl
    share = total / training if training > 0 else math.inf
    verdict = "Faithful" if share <= SMALL else "Not quite faithful" if share <= LARGE else "Not faithful"
    relative = f", {100 * share:.3g} % of the change made by the adapter ({_nats(training)})" if training > 0 else ""
    parts = [f"{verdict}: the merged model differs from the trained one by {_nats(total)} per token{relative}."]
    if fidelity.merged_into is not None:
        parts.append(_other_base(fidelity, dtype))
    elif fidelity.quantisation is not None:
        parts.append(_origin(total, fidelity.quantisation.kl, fidelity.rounding.kl, fidelity.base, dtype))
    elif dtype != "float32":
        parts.append(f"The difference comes from rounding the merged weights to {dtype}.")
    if share > LARGE:
        parts.append("Evaluate the merged model on your task, or serve the adapter on the base as it was in training.")
    return " ".join(parts)


def of_file(file: FileDrift, fidelity: Fidelity) -> str:
    """Report the difference of a file from the trained model, and whether the merge or the file is the larger part of it."""
    if file.from_merged is None:
        return f"{file.name} ({size_of(file.bytes)}): {_nats(max(file.from_trained.kl, 0))} per token from the trained model."
    added, merge = max(file.from_merged.kl, 0), max(fidelity.total.kl, 0)
    step = f"quantisation to {file.name}" if file.is_quantised else "conversion"
    larger = step if added > merge else "the merge"
    return (
        f"{file.name} ({size_of(file.bytes)}): {_nats(max(file.from_trained.kl, 0))} per token from the trained model. The larger part "
        f"comes from {larger} (the merge {_nats(merge)}, {step} {_nats(added)})."
    )


def far_files(fidelity: Fidelity) -> str | None:
    """A sentence about the files that are not `CLOSE` to the 16-bit model, and about what is closer; `None` if all are close."""
    kl = {file.name: max((file.from_merged or file.from_trained).kl, 0) for file in fidelity.files}
    far = [file for file in fidelity.files if kl[file.name] > CLOSE]
    if not far:
        return None
    model = "merged" if fidelity.total else "trained"
    which = joined([f"{file.name} ({_nats(kl[file.name])})" for file in far], "and")
    text = f"{which} {are(len(far))} more than {CLOSE:g} nats per token from the {model} model"
    best = min(fidelity.files, key=lambda file: kl[file.name])
    if best in far:
        return f"{text}, and no file that was measured is closer."
    measured = f"{best.name} is {'closer ' if LARGEST in kl else ''}({_nats(kl[best.name])}, {size_of(best.bytes)})."
    return (
        f"{text}; {measured}"
        if LARGEST in kl
        else f"{text}; {LARGEST}, a larger type, would be closer, and {measured}"
    )


def _bases(fidelity: Fidelity) -> str:
    if fidelity.merged_into is not None:
        return "base only, as trained → as merged into"
    return f"base only, {fidelity.base} → unquantised"


def _other_base(fidelity: Fidelity, dtype: str) -> str:
    """About a merge into another model than the one trained on: which they are, and how far they are apart."""
    total, bases, rounding = fidelity.total.kl, fidelity.quantisation.kl, fidelity.rounding.kl
    text = (
        f"The adapter was trained on {fidelity.trained_on} and merged into {fidelity.merged_into}: without the adapter, these two "
        f"differ by {_nats(max(bases, 0))}, and rounding the merged weights to {dtype} adds {_nats(max(rounding, 0))}."
    )
    if total > SIMILAR * max(bases, rounding):
        text += " The total is larger, so the adapter relies on the model it was trained on."
    return text


def _origin(total: float, quantisation: float, rounding: float, base: str, dtype: str) -> str:
    bases = f"without the adapter, the two bases differ by {_nats(quantisation)}"
    rounded = f"rounding the merged weights to {dtype} adds {_nats(max(rounding, 0))}"
    if total > 0 and rounding > NOTICEABLE * total and dtype != "float32":
        return f"Part of it comes from the merge: {rounded}, which `--dtype float32` avoids; {bases}."
    if total <= SIMILAR * quantisation:
        return f"It comes from the {base} base used in training, not from the merge: {bases}, and {rounded}."
    return (
        f"It is larger than the difference of the bases ({bases}), so the adapter relies on the {base} weights it was "
        f"trained with; {rounded}."
    )


def _numbers(drift: Drift) -> tuple[str, ...]:
    return (
        f"{max(drift.kl, 0):.2g}",
        f"{drift.largest_token:.2g}",
        f"{drift.largest_sequence:.2g}",
        f"{100 * drift.same_top:.1f} %",
    )


def _nats(value: float) -> str:
    return f"{value:.2g} nats"
