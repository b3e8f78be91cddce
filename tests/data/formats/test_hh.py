"""HH transcripts: odd orders, empty turns, and the real file."""

import gzip
import json

import pytest
from datasets import Dataset

from tests.data.rows import assistant, user
from trl_ext import data
from trl_ext.data.formats.hh import turns
from trl_ext.data.formats.row_outcome import Drop, Note, Reason


def transcript(*said):
    return "".join(f"\n\n{speaker}: {text}" for speaker, text in said)


def load(*pairs, **options):
    rows = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    return data.load(Dataset.from_list(rows), format="hh", **options)


ASKED = ("Human", "Hi")


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("\n\nHuman: a\n\nAssistant: b", [user("a"), assistant("b")]),
        ("Human: a\n\nAssistant: b", [user("a"), assistant("b")]),
        ("  \nHuman:a\n\nAssistant:b", [user("a"), assistant("b")]),
        # Only one space belongs to the marker; paragraphs and trailing newlines belong to the text.
        ("\n\nHuman:  a\n\nb\n\n\nAssistant: c ", [user(" a\n\nb\n"), assistant("c ")]),
        # A speaker's name inside a line is just a word.
        (
            "\n\nHuman: Assistant: hi\nHuman: no\n\nAssistant: b",
            [user("Assistant: hi\nHuman: no"), assistant("b")],
        ),
        ("\n\nHuman: a\n\nAssistant:", [user("a"), assistant("")]),
        ("\n\nHuman:\n\nAssistant: b", [user(""), assistant("b")]),
        ("\n\nAssistant: a\n\nHuman: b", [assistant("a"), user("b")]),
    ],
)
def test_turns(text, messages):
    notes = set()
    assert turns(text, notes) == messages
    assert not notes


@pytest.mark.parametrize("text", ["", "hello", "Once\n\nHuman: a\n\nAssistant: b", "Humans: a"])
def test_text_that_is_no_transcript(text):
    with pytest.raises(Drop, match="not a Human/Assistant transcript"):
        turns(text, set())


def test_neighbouring_turns_of_one_speaker_are_merged_and_counted():
    notes = set()
    said = turns("\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant:  d\n\nAssistant:", notes)
    assert said == [user("a\n\nb"), assistant("c\n\nd")]
    assert notes == {Note.MERGED}


def test_each_odd_row_is_dropped_for_its_own_reason_or_kept_with_a_note():
    good = transcript(ASKED, ("Assistant", "Hello"))
    other = transcript(ASKED, ("Assistant", "Go away"))
    dataset, report = load(
        (good, other),
        (good, None),  # null
        (good, "just text"),  # no transcript
        (transcript(ASKED), other),  # ends with the human
        (transcript(("Human", "Bye"), ("Assistant", "Hello")), other),  # another prompt
        (transcript(("Assistant", "Hello")), transcript(("Assistant", "Go"))),  # no prompt
        (good, transcript(ASKED, ("Assistant", ""))),  # an empty answer is kept
        (good, good),  # so is a pair that teaches nothing
        (
            transcript(("Assistant", "Hm"), ASKED, ("Assistant", "x")),
            transcript(("Assistant", "Hm"), ASKED, ("Assistant", "y")),
        ),
        (good, other),  # and a duplicate
    )
    assert report.rows_in == 10 and report.rows_out == len(dataset) == 5
    assert {reason: (dropped.rows, dropped.first) for reason, dropped in report.dropped.items()} == {
        Reason.NULL.value: (1, 1),
        Reason.NOT_TRANSCRIPT.value: (1, 2),
        Reason.NO_PROMPT.value: (3, 3),
    }
    assert report.notes == {
        Note.IDENTICAL.value: 1,
        Note.EMPTY_REJECTED.value: 1,
        Note.ASSISTANT_FIRST.value: 1,
    }
    assert report.duplicates == 1
    assert "3 of 10 rows dropped" in str(report) and "(first: row 3)" in str(report)


def test_an_answer_must_be_the_assistants():
    asked_again = transcript(ASKED, ("Assistant", "Hello"), ("Human", "What?"))
    answered = transcript(ASKED, ("Assistant", "Go"), ("Human", "Why?"), ("Assistant", "Oh"))
    good = transcript(ASKED, ("Assistant", "Yes"))
    report = load((asked_again, answered), (good, answered)).report
    assert {reason: dropped.rows for reason, dropped in report.dropped.items()} == {Reason.NO_ASSISTANT_TURN.value: 1}


def test_real_file(real_data):
    """All 2,312 pairs of HH's harmless test split, whose texts come back letter by letter."""
    path = real_data / "hh_harmless_test.jsonl.gz"
    dataset, report = data.load(path)
    assert (report.format, report.rows_in, report.rows_out) == ("hh", 2312, 2312)
    assert report.notes == {Note.EMPTY_CHOSEN.value: 4, Note.MERGED.value: 9}
    assert report.duplicates == 0

    name = {"user": "Human", "assistant": "Assistant"}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        given = [json.loads(line) for line in file]
    exact = 0
    for row, source in zip(dataset, given, strict=True):
        for answer in ("chosen", "rejected"):
            messages = row["prompt"] + row[answer]
            roles = [message["role"] for message in messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
            said = "".join(f"\n\n{name[m['role']]}: {m['content']}" for m in messages)
            if said == source[answer]:
                exact += 1
                continue
            # Merging removed a speaker's name between two of its turns.
            assert words(said) == words(source[answer])
    assert exact == 2 * 2312 - 8 - 5  # 8 chosen and 5 rejected texts have merged turns


def words(text):
    """Words of a transcript without its speakers."""
    return [word for word in text.split() if word not in ("Human:", "Assistant:")]
