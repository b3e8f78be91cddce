"""`trl-ext eval` of a run and of its checkpoint: the page and the card have its numbers."""

import json
import shutil

import pytest
from datasets import Dataset

from tests import finished_runs
from tests.conftest import pairs
from trl_ext.cli import main
from trl_ext.report import card_blocks
from trl_ext.support.intervals import format_estimate

FEW = ["--samples", "4", "--max_new_tokens", "3"]


@pytest.fixture
def run(tiny_model, tmp_path):
    Dataset.from_list(pairs(30)).to_json(tmp_path / "pairs.jsonl")
    settings = {"eval_size": 7, "max_length": 20, "dataset_name": str(tmp_path / "pairs.jsonl"), "load_in_4bit": False}
    run = finished_runs.leave(tmp_path / "run", tiny_model, scale=0.3, **settings)
    checkpoint = run / "checkpoint-40"
    checkpoint.mkdir()
    for file in [*run.glob("adapter*"), *run.glob("tokenizer*")]:
        shutil.copy(file, checkpoint)
    card = card_blocks.assemble("# run\n\nMine.", run="| | |", results="", usage="Load it.")
    (run / "README.md").write_text(card)
    return run


def test_eval_writes_the_page_and_the_card(run, tmp_path, capsys):
    assert main(["eval", str(run), *FEW]) == 0
    assert f"page     {run / 'report.html'}" in capsys.readouterr().out
    record = json.loads((run / "eval-pairs-held-out.json").read_text())
    accuracy = format_estimate(record["ranking"]["log_ratio"]["accuracy"], "{:.3f}")
    page, card = ((run / name).read_text(encoding="utf-8") for name in ("report.html", "README.md"))
    assert accuracy.partition(" (")[0] in page and f"| accuracy on held-out pairs | 0.500 | {accuracy} |" in card
    assert card.startswith("# run\n\nMine.") and card.endswith("Load it.\n<!-- trl-ext: end -->\n")
    assert "checkpoint-40" not in page

    # The data may be gone by the time that a checkpoint is evaluated on other data.
    (tmp_path / "pairs.jsonl").rename(tmp_path / "others.jsonl")
    assert main(["eval", str(run / "checkpoint-40"), *FEW, "--dataset", str(tmp_path / "others.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 40
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<h3>Evaluated on others" in page and "<th>checkpoint-40</th>" in page
    assert f"on {tmp_path / 'pairs.jsonl'} [train], pairs." in page  # what it was trained on
    assert (run / "README.md").read_text(encoding="utf-8") == card
    assert not (run / "checkpoint-40" / "report.html").exists()


def test_a_page_that_cannot_be_written_does_not_lose_the_results(run, capsys):
    (run / "report.html").mkdir()
    assert main(["eval", str(run), *FEW]) == 0
    printed = capsys.readouterr().out
    assert "The page of the run was not written: " in printed and "eval-pairs-held-out.json" in printed
    assert (run / "eval-pairs-held-out.json").exists()
