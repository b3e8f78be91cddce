"""Data on this computer is opened to its end; of other data only the cache is asked."""

import json

import datasets

ROW = json.dumps({"prompt": "p", "chosen": "good", "rejected": "bad"})


def test_the_embedded_data(said_of):
    assert said_of()["data"].found == "embedded: 1,000 rows, TRL's own columns"


def test_data_that_is_nowhere_here(said_of, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    found = said_of(dataset="org/pairs")["data"]
    assert (found.status, found.found) == ("warn", "org/pairs is not in the Hub cache")
    (tmp_path / "org___pairs").mkdir()
    assert said_of(dataset="org/pairs")["data"].status == "pass"


def test_a_row_beyond_a_first_look(said_of, tmp_path):
    """Which `validate` passes: it is JSON."""
    (tmp_path / "d.jsonl").write_text(f"{ROW}\n" * 2000 + ROW.replace("good", "go\\ud800od") + "\n")
    found = said_of(dataset="d.jsonl")
    assert (
        found["recipe"].status == "pass"
        and found["data"].status == "fail"
        and "line 2,001 has half" in found["data"].found
    )
    assert found["data"].remedy == "Fix the data, then check it with `trl-ext data r.yaml`."


def test_every_row_is_counted(said_of, tmp_path):
    (tmp_path / "d.jsonl").write_text(f"{ROW}\n" * 2000)
    assert (
        said_of(dataset="d.jsonl", more="eval_size: 1500\n")["data"].found == "d.jsonl: 2,000 rows, TRL's own columns"
    )


def test_what_others_train_on(said_of, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "p"}\n' * 40)
    found = said_of(dataset="d.jsonl", more="trainer: ppo\nreward_funcs: sentiment\nnum_generations: 1\n")
    assert found["data"].status == "pass" and "40 rows" in found["data"].found
