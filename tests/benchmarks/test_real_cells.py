"""The cells of the measurement on a real chat model: what is trained, resumed, saved and compared. Nothing is trained here."""

import json
import math

import pytest
import torch

from benchmarks.real import cells, evaluation, pairs, preferences, prompts, rewards, summary
from benchmarks.real.pairs import Scored
from docs import real_page


def test_a_pair_is_the_best_and_the_worst_answer():
    short, long, cut = Scored("a", True, 1.0), Scored("b", True, 0.5), Scored("c", False, 0.6)
    assert pairs.choose([cut, short, long]) == (short, long)
    assert pairs.choose([cut, long]) is None  # the best was cut
    assert pairs.choose([long, long]) is None


def test_the_shipped_pairs_are_of_training_prompts_and_their_chosen_answers_are_shorter():
    rows = [json.loads(line) for line in pairs.FILE.read_text(encoding="utf-8").splitlines()]
    assert len(rows) > 100
    assert {row["prompt"][0]["content"] for row in rows} <= set(prompts.prompts("train"))
    for row in rows:
        chosen, rejected = rewards.is_short([row["chosen"], row["rejected"]])
        assert chosen > rejected


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_the_shipped_prompts_are_those_of_the_templates(part):
    lines = pairs.FILE.with_name(f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == prompts.rows(part)


def test_preferences_of_one_prompt_stay_together():
    rows = [{"prompt": [{"role": "user", "content": str(i // 3)}], "chosen": i} for i in range(1500)]
    trained, held_out = preferences.split(rows)
    assert preferences.HELD_OUT <= len(held_out) < preferences.HELD_OUT + 3 and len(trained) == preferences.TRAINED
    seen = [{row["prompt"][0]["content"] for row in part} for part in (trained, held_out)]
    assert not seen[0] & seen[1]
    assert all(sum(row["prompt"][0]["content"] == prompt for row in held_out) == 3 for prompt in seen[1])


def test_perplexity_of_texts_of_one_length_has_the_interval_of_the_mean():
    found = evaluation.perplexity([10.0, 20.0, 30.0], [10, 10, 10])
    half = 1.959964 * math.sqrt(1.0 / 3)  # nats per token 1, 2, 3: standard deviation 1
    assert found["value"] == pytest.approx(math.exp(2))
    assert (found["low"], found["high"]) == pytest.approx((math.exp(2 - half), math.exp(2 + half)), rel=1e-5)
    assert evaluation.perplexity([4.0, 6.0], [2, 3])["low"] == pytest.approx(math.exp(2))  # 2 nats a token in both


def number(value: float, half: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def record(name: str = "base", **changes) -> dict:
    cell = next(each for each in cells.CELLS if each.name == name)
    is_base = cell.recipe is None
    task = {key: number(0.5) for key in ("success", "ended", *real_page.SIDE_EFFECTS)}
    task |= {"words": number(40), "kl": None if is_base else number(3)}
    task["shown"] = [{"prompt": "Why | how?", "text": "Because\n| so", "ended": False}]
    found = {
        "cell": name,
        "recipe": cell.recipe,
        "loss": cell.loss,
        "task": task,
        "pairs": {
            "logps": {"chosen": [-10.0, -20.0, -30.0], "rejected": [-10.0, -20.0, -30.0]},
            "kl": None if is_base else number(1.0),
        },
        "chosen": number(12.0),
        "prose": number(20.0),
        "facts": {"n": 4, "right": number(0.75), "which": [0, 1, 2]},
    }
    if not is_base:
        found["training"] = {"steps": 60, "seconds": 500.0, "cpu_seconds": 480.0, "peak_bytes": 3.21e9, "threads": 1}
    return found | changes


def test_accuracy_and_margin_are_those_of_the_log_ratios():
    logps = {"chosen": [-9.0, -22.0, -30.0], "rejected": [-10.0, -21.0, -30.0]}
    found = summary.preferences(record("hh-dpo", pairs={"logps": logps}), record())
    assert found.accuracy["value"] == pytest.approx(0.5)  # margins 1, −1, 0; a tie counts one half
    assert found.margin["value"] == pytest.approx(0.0)


@pytest.mark.parametrize(("after", "expected"), [([0, 1, 2], (0, 0, 1.0)), ([0, 3], (2, 1, 1.0)), ([], (3, 0, 0.25))])
def test_facts_lost_and_won(after, expected):
    run = record("dpo", facts={"n": 4, "right": number(0.5), "which": after})
    assert summary.facts_changed(run, record()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("lost", "won", "p"), [(0, 0, 1.0), (3, 3, 1.0), (1, 9, 22 / 1024), (9, 0, 2 / 512), (4, 9, 2 * 1093 / 8192)]
)
def test_p_values_counted_by_hand(lost, won, p):
    before = [*range(lost), *range(100, 110)]
    run = record("dpo", facts={"n": 200, "right": number(0.5), "which": [*range(50, 50 + won), *range(100, 110)]})
    base = record(facts={"n": 200, "right": number(0.5), "which": before})
    assert summary.facts_changed(run, base) == pytest.approx((lost, won, p))


def test_tables_have_a_row_for_every_cell():
    found = {name: record(name) for name in ("base", "dpo", "ppo", "hh-orpo")}
    task = real_page.task_table(found).splitlines()
    assert [line.split(" | ")[0] for line in task[2:]] == ["| base", "| DPO", "| PPO"]
    assert "50% [49%, 51%]" in task[3] and task[3].endswith("| 8 | 3.2 GB |")
    assert real_page.preferences_table(found).splitlines()[2].startswith("| ORPO | 50% [")
    assert "0 lost, 0 won (p = 1)" in real_page.cost_table(found).splitlines()[-1]
    assert "| DPO | Because \\| so … |" in real_page.answers(found)
    assert {line.count(" | ") for line in real_page.answers({"base": record()}).splitlines() if line[:1] == "|"} == {1}


def test_nothing_measured_is_said():
    for part in (real_page.task_table, real_page.preferences_table, real_page.cost_table, real_page.answers):
        assert part({}).startswith("Nothing has been measured yet. `make real`")
    assert real_page.header("smollm2-135m-short", {}) is None


def test_a_header_has_the_range_of_its_losses():
    slow = {**record("ipo")["training"], "cpu_seconds": 700.0}
    found = {"base": record(), "dpo": record("dpo"), "ipo": record("ipo", training=slow)}
    assert real_page.header("smollm2-135m-short", found) == (
        "3.2 GB; 8 to 12 min of CPU time on one of two cores, in float32 (dpo, ipo)."
    )
    assert real_page.header("smollm2-135m-hh", found) is None


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """The commands a cell runs, in place of running them; results go to a temporary folder."""
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("TRL_EXT_REAL_MODEL", "/a/model")
    made = []

    def call(module, *words, log, used=None):
        made.append([module, *map(str, words)])
        if module == "trl_ext":
            run = tmp_path / "runs" / "hh-ipo"
            run.mkdir(parents=True, exist_ok=True)
            (run / "metrics.jsonl").write_text('{"step": 100, "seconds": 60.5}\n', encoding="utf-8")
            used.write_text('{"cpu_seconds": 7.5, "peak_bytes": 5, "threads": 1}\n' * 2, encoding="utf-8")
        else:
            words[0].write_text('{"task": 1}', encoding="utf-8")

    monkeypatch.setattr(cells, "_call", call)
    (tmp_path / "runs").mkdir()
    return made


CELL = next(cell for cell in cells.CELLS if cell.name == "hh-ipo")


def test_a_cell_is_trained_by_its_recipe_then_measured_and_saved(commands, tmp_path):
    cells.complete(CELL, cells.Place(tmp_path / "runs"))
    train, measure = commands
    assert train[:3] == ["trl_ext", "run", "smollm2-135m-hh"] and "/a/model" in train
    assert train[train.index("--loss") + 1] == "ipo" and train[train.index("--dataset_name") + 1].endswith(
        "hh-train.jsonl"
    )
    assert measure[0] == "benchmarks.real.evaluation" and measure[-3].endswith("hh-ipo") and measure[-1] == "pairs"
    saved = json.loads(CELL.result.read_text(encoding="utf-8"))
    assert saved["training"] == {"steps": 100, "seconds": 60.5, "cpu_seconds": 15.0, "peak_bytes": 5, "threads": 1}
    assert [file.name for file in CELL.result.parent.iterdir()] == ["hh-ipo.json"]


def test_an_interrupted_run_is_resumed_and_a_finished_one_is_not_trained_again(commands, tmp_path):
    run = tmp_path / "runs" / "hh-ipo"
    (run / "checkpoint-20").mkdir(parents=True)
    cells.complete(CELL, cells.Place(tmp_path / "runs"))
    assert commands[0][-2:] == ["--resume_from_checkpoint", "true"]
    (run / "checkpoint-20").rmdir()
    (run / "leftover").touch()
    commands.clear()
    cells.complete(CELL, cells.Place(tmp_path / "runs"))
    assert "--resume_from_checkpoint" not in commands[0] and not (run / "leftover").exists()
    (run / "adapter_config.json").touch()
    commands.clear()
    cells.complete(CELL, cells.Place(tmp_path / "runs"))
    assert [words[0] for words in commands] == ["benchmarks.real.evaluation"]


def test_log_probabilities_are_in_the_order_of_the_completions(monkeypatch):
    monkeypatch.setattr(evaluation, "logps", lambda model, tokenizer, sorted_, batch_size: torch.tensor(
        [float(len(each.ids)) for each in sorted_]
    ))  # fmt: skip
    asked = [evaluation.Completion([0], list(range(n)), "", True) for n in (5, 1, 4, 2, 3)]
    assert evaluation.Measured(None, None, None).logps(asked) == [5, 1, 4, 2, 3]
