"""Arrange what was measured in tables, which the page of a run and its model card show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from trl_ext.evaluation import results
from trl_ext.evaluation.judged_report import agreement_in_words, sentences, share, verdict
from trl_ext.support.counts import count
from trl_ext.support.intervals import format_estimate

if TYPE_CHECKING:
    from trl_ext.evaluation.run_page.records import Measured, Record

LEGEND = "± is half the width of the 95 % interval; (from–to) if it is not symmetric."

VERDICTS = ("wins", "ties", "losses", "unclear")


class Table(NamedTuple):
    """A table of texts.

    Attributes:
        title: What was measured on what.
        headings: One per column; that of the first is empty.
        rows: Cells.
        notes: Sentences about it.
    """

    title: str
    headings: list[str]
    rows: list[list[str]]
    notes: list[str]


def evaluations(measured: Sequence[Measured]) -> list[Table]:
    """A table per data set, with a column for the base, the run and each checkpoint that was evaluated in the same way."""
    groups: dict[Any, list[tuple[str, Record]]] = {}
    for each in measured:
        for record in each.evaluations:
            groups.setdefault(_conditions(record), []).append((each.name, record))
    return [_evaluation(records) for records in groups.values()]


def _conditions(record: Record) -> tuple:
    """What two evaluations have in common if their numbers can stand side by side."""
    data, sampled = record["data"], record.get("sampled") or {}
    settings = (sampled.get(key) for key in ("n", "max_new_tokens", "seed"))
    return data["name"], _rows(data), *settings


def _evaluation(records: list[tuple[str, Record]]) -> Table:
    first = records[0][1]
    columns = {"base": results.of_base(first), **{name: results.of_run(record) for name, record in records}}
    rows = [
        [measure.name, *(format_estimate(column.get(measure.key), measure.form) for column in columns.values())]
        for measure in results.measures(list(columns.values()))
    ]
    return Table(f"Evaluated on {first['data']['name']}", ["", *columns], rows, [*_how(first), *_kl(records)])


def _how(record: Record) -> list[str]:
    data, sampled = record["data"], record.get("sampled")
    seen = "some or all of them were used for training" if data.get("was_trained_on") else "none was used for training"
    found = [f"{_rows(data)}; {seen}."]
    if sampled:
        limit = f" of up to {count(sampled['max_new_tokens'], 'tokens')}" if "max_new_tokens" in sampled else ""
        number = count(sampled["n"], "completions") if "n" in sampled else "Completions"
        found.append(f"{number}{limit} sampled at temperature 1, each for another prompt.")
    return [*found, f"The base is {record['reference']}."] if "reference" in record else found


def _rows(data: Record) -> str:
    return count(data["pairs"], "pairs") if "pairs" in data else count(data.get("answers", 0), "labelled completions")


def _kl(records: list[tuple[str, Record]]) -> list[str]:
    """The second estimate of the KL; the table has the first, k1."""
    found = {name: (record.get("sampled") or {}).get("kl", {}).get("k3") for name, record in records}
    values = [f"{name} {number(value)}" for name, value in found.items() if value]
    return [f"KL to the base by the estimator k3, nats: {', '.join(values)}."] if values else []


def judged(measured: Sequence[Measured]) -> Table | None:
    """A column per judge and set of weights."""
    columns = {_heading(record["judge"], each): record for each in measured for record in each.judged}
    if not columns:
        return None
    rows = {
        "win rate": [share(record["win_rate"]) for record in columns.values()],
        "length-controlled win rate": [share(record["length_controlled"]) for record in columns.values()],
        **{word: [f"{record[word]:,}" for record in columns.values()] for word in VERDICTS},
        "position bias": [share(record["position_bias"]) for record in columns.values()],
        "tokens per answer, base": [number(record["tokens"]["base"], 1) for record in columns.values()],
        "tokens per answer, tuned": [number(record["tokens"]["tuned"], 1) for record in columns.values()],
        "prompts": [f"{record['prompts']['n']:,}" for record in columns.values()],
    }
    shown = [[name, *cells] for name, cells in rows.items() if any(cell != "—" for cell in cells)]
    sources = dict.fromkeys(str(record["prompts"]["source"]) for record in columns.values())
    notes = [f"Prompts: {', '.join(sources)}."]
    for heading, record in columns.items():
        notes += [f"{heading}: {sentence}" for sentence in sentences(record)]
    agreed = dict.fromkeys(agreement_in_words(record) for record in columns.values() if record["agreement"])
    return Table("Win rate against the base", ["", *columns], shown, [*notes, *agreed])


def _heading(judge: str, measured: Measured) -> str:
    return judge if measured.is_run else f"{judge}, {measured.name}"


def tasks(measured: Sequence[Measured]) -> list[Table]:
    """A table of the tasks per set of weights."""
    return [_tasks(each, record) for each in measured for record in each.tasks]


def _tasks(measured: Measured, record: Record) -> Table:
    rows, is_lower_better = [], False
    for name, found in record["tasks"].items():
        arrow = " ↓" if found.get("higher_is_better") is False else ""
        is_lower_better = is_lower_better or bool(arrow)
        digits = 0 if abs(found["base"]["value"]) >= 1000 else 3
        numbers = [
            number(found["base"], digits),
            number(found["tuned"], digits),
            number(found["difference"], digits, "+"),
        ]
        rows.append([name, f"{found['metric']}{arrow}", _count(found.get("n")), *numbers])
    notes = [*filter(None, [record.get("summary")]), *(["↓: lower is better."] if is_lower_better else [])]
    headings = ["", "metric", "n", "base", measured.name, "difference"]
    return Table("Tasks" if measured.is_run else f"Tasks, {measured.name}", headings, rows, notes)


def _count(n: int | None) -> str:
    return "—" if n is None else f"{n:,}"


def number(value: Any, digits: int = 2, sign: str = "") -> str:
    """An estimate or a plain number; a dash where nothing was measured."""
    form = f"{{:{sign}.{digits}f}}"
    if _is_estimate(value):
        return format_estimate({"low": None, "high": None} | dict(value), form)
    return form.format(value) if isinstance(value, int | float) else "—"


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("value"), int | float)


def in_brief(measured: Sequence[Measured]) -> list[str]:
    """A sentence per result of the run: its main measure before and after, the win rates, the cost in abilities."""
    found = []
    for each in measured:
        if not each.is_run:
            continue
        for record in each.evaluations:
            base, tuned = results.of_base(record), results.of_run(record)
            key, name = results.gain([tuned])
            before, after, kl = number(base.get(key), 3), number(tuned.get(key), 3), tuned.get("kl")
            far = f", at a KL of {number(kl)} nats per completion to the base" if kl else ""
            sentence = f"{name} on {record['data']['name']}: {before} before, {after} after training{far}."
            found.append(f"{sentence[0].upper()}{sentence[1:]}")
        found += [f"Judge {record['judge']}: {verdict(record)}" for record in each.judged]
        found += [str(record["summary"]) for record in each.tasks if record.get("summary")]
    return found
