"""What cannot work in the block `search` is refused with the recipe, by sentences that name the entry and its line."""

import pytest

from tests.recipe.helpers import RATE, load, problem, problems, write
from trl_ext.cli import main

TRAINED = "loss: dpo\nuse_peft: true\n"


def said(folder, *lines: str) -> str:
    return problem(folder, TRAINED + "search:\n" + "".join(f"  {line}\n" for line in lines))


def test_a_block_that_can_work(tmp_path):
    text = (
        "search: {space: {loss: [dpo, ipo], beta: {dpo: auto, ipo: [1, '4']}, learning_rate: {low: 1e-5, high: '1e-3'}, lora_r: 8}, "
        "measure: sentiment, max_kl: 2, hours: 0.5, trials: 9, samples: '64', pruner: hyperband, rungs: 3, seed: 1}\n"
    )
    read = load(tmp_path, TRAINED + text, **RATE)
    assert read.search["samples"] == 64 and read.search["max_kl"] == 2
    assert read.notes == [
        "`search` (line 5) is read by `trl-ext search` alone. Every other command uses the settings of the recipe as they are."
    ]
    assert load(tmp_path, TRAINED + text, **RATE, search=None).search is None


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("max_kl: 0", "`search.max_kl` (line 6) is 0: give a number greater than 0."),
        ("max_kl: many", "`search.max_kl` (line 6) is 'many': give a number or null."),
        ("hours: -1", "`search.hours` (line 6) is -1: give a number greater than 0."),
        ("rungs: 0", "`search.rungs` (line 6) is 0: give a whole number of at least 1."),
        ("rungs: 9", "`search.rungs` (line 6) is 9: give at most 6."),
        ("pruner: best", "allowed are hyperband, none, successive_halving."),
        ("{pruner: none, rungs: 2}", "`pruner: none` stops no trial early, so this is not read."),
        ("measure: sentimant", "which is neither `accuracy` nor a reward or judge. Did you mean sentiment?"),
        ("{measure: sentiment, limit: 9}", "is the number of rows for `accuracy`"),
        ("{measure: sentiment, judge_model: m}", "is read by an API or a chat model"),
        ("judge_model: m", "needs a judge. Name it as `search.measure`"),
        ("mesure: accuracy", "is not a setting of a search: did you mean `measure`?"),
        ("learning_rate: [1e-3]", "To vary it, write it in `search.space`: `space: {learning_rate: [...]}`."),
        ("judge_api_key: sk-1", "environment variable OPENAI_API_KEY to the key."),
        ("dataset: missing.jsonl", "`search.dataset` (line 6)"),
        ("space: {}", "`search.space` (line 6) is empty."),
        ("space: {learning_rate: {low: 1, high: 1e-3}}", "goes from 1 to 0.001: `low` has to be below `high`."),
        ("space: {beta: {low: 0, high: 1, log: true}}", "is logarithmic and begins at 0"),
        ("space: {beta: {low: 0.1}}", "has no `high`."),
        ("space: {beta: {low: a, high: 2}}", "has 'a' as `low`: give a number."),
        ("space: {beta: {low: 1, high: .inf}}", "as `high`: give a number."),
        ("space: {beta: {low: 1, high: 2, step: 1}}", "has an entry `step`. Allowed are low, high and log."),
        ("space: {beta: {low: 1, high: 2, log: maybe}}", "has 'maybe' as `log`: give true or false."),
        ("space: {lora_r: []}", "has no values."),
        ("space: {lora_r: [[8]]}", "Write values `[8, 16]`"),
        ("space: {seed: [0, 1]}", "cannot be varied: choosing a seed by its result selects luck."),
        ("space: {lora_rank: [8]}", "is not a setting: did you mean `lora_r`?"),
        ("space: {loss: [dpo, ippo]}", "There is no loss 'ippo'."),
        ("space: {gamma: [1, 2]}", "is a setting of alphapo, simpo or tpo_l, and dpo does not read it."),
        ("space: {beta: {ipo: auto}}", "has a range for ipo, which is not searched. Add it to `loss`"),
    ],
)
def test_each_problem_is_a_sentence(line, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = problem(tmp_path, f"{TRAINED}search: {line}\n") if line.startswith("{") else said(tmp_path, line)
    assert sentence in found, found


def test_all_problems_at_once(tmp_path):
    assert (
        len(
            problems(
                tmp_path, TRAINED + "search: {max_kl: -1, spce: 1, space: {beta: {low: 2, high: 1}, lora_r: []}}\n"
            )
        )
        == 4
    )


def test_only_losses_on_data_are_searched(tmp_path):
    text = "trainer: sft\nuse_peft: true\nsearch: {max_kl: 1}\n"
    assert "varies the training of a preference loss on data. This recipe has `trainer: sft`." in problem(
        tmp_path, text
    )


def test_a_value_of_another_kind(tmp_path):
    assert "`search` (line 5) is true: give a mapping or null." in problem(tmp_path, TRAINED + "search: true\n")


def test_validate_tries_every_end_of_a_range(tmp_path, capsys):
    text = (
        TRAINED
        + "learning_rate: 1e-3\nsearch: {space: {learning_rate: [1e-4, 5], dataset_name: [a], warmup_steps: [0, -1]}}\n"
    )
    assert main(["validate", str(write(tmp_path, text))]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "`learning_rate` in `search.space`, at 5: " in said and "greater than 0 and at most 1" in said
    assert "`warmup_steps` in `search.space`, at -1: " in said
    assert "`dataset_name` in `search.space` cannot be varied: trials share the base and the data." in said


def test_validate_shows_what_is_searched(tmp_path, capsys):
    text = TRAINED + "learning_rate: 1e-3\nsearch: {space: {learning_rate: auto, lora_r: [8, 16]}}\n"
    assert main(["validate", str(write(tmp_path, text))]) == 0
    out = capsys.readouterr().out
    assert "search" in out and "learning_rate: 0.0001 to 0.01, logarithmic; lora_r: 8, 16" in out
