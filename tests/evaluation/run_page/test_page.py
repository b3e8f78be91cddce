"""The page of a run: what it shows is what was logged and measured."""

import base64
import html
import re
from pathlib import Path

import pytest

from tests.evaluation.run_page import made
from trl_ext.evaluation.run_page import about, page
from trl_ext.evaluation.run_page.update import update
from trl_ext.methods import METHODS
from trl_ext.report import curves

SCRIPT = "<script>alert('x')</script>"


def text_of(directory, recipe) -> str:
    return update(directory, recipe).read_text(encoding="utf-8")


def rows(text: str, label: str) -> list[list[str]]:
    """Cells of the table with this label, headings first."""
    (table,) = re.findall(rf'aria-label="{re.escape(label)}">(.*?)</table>', text, re.DOTALL)
    cells = [re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("</tr>")]
    return [[html.unescape(re.sub(r"<.*?>", " ", cell)) for cell in row] for row in cells if row]


def test_what_was_logged_and_measured_is_on_the_page(tmp_path):
    recipe = made.run(tmp_path / "run")
    made.leave(tmp_path / "run", eval_x=made.evaluation(), judged_longer=made.judged(), tasks=made.TASKS)
    text = text_of(tmp_path / "run", recipe)
    assert "Trained for 4 of 80 steps in 63 s." in text
    assert rows(text, "First and last logged values") == [
        ["training", "step 1", "step 4"],
        ["loss", "0.6931", "0.125"],
        ["margin, nats", "0", "2.25"],
        ["log-ratio of chosen, nats", "0", "0.75"],
        ["log-ratio of rejected, nats", "0", "-1.5"],
    ]
    evaluated = {name: cells for name, *cells in rows(text, "Evaluated on pairs-held-out")}
    assert evaluated == {
        "": ["base", "tuned"],
        "sentiment": ["0.400 ± 0.100", "0.700 ± 0.100"],
        "KL to the base, nats": ["0.00", "1.25 ± 0.10"],
        "accuracy on held-out pairs": ["0.500", "0.800 ± 0.100"],
        "margin, nats": ["0.00", "2.00 ± 0.10"],
        "log-ratio of chosen, nats": ["+0.00", "+1.00 ± 0.10"],
        "log-ratio of rejected, nats": ["+0.00", "-1.00 ± 0.10"],
        "tokens per completion": ["18.0 ± 0.1", "20.0 ± 0.1"],
        "share that ended": ["0.90 ± 0.10", "0.80 ± 0.10"],
    }
    assert "KL to the base by the estimator k3, nats: tuned 2.25 ± 0.10." in text
    won = dict(rows(text, "Win rate against the base"))
    assert won["win rate"] == "75.0 ± 10.0 %" and won["position bias"] == "12.5 ± 10.0 %"
    assert [won[name] for name in ("wins", "ties", "losses", "unclear", "prompts")] == ["27", "6", "4", "3", "40"]
    assert "No length-controlled win rate. The regression fits every score exactly." in text
    assert rows(text, "Tasks")[1:] == [
        ["arithmetic", "acc", "50", "0.500 ± 0.100", "0.450 ± 0.100", "-0.050 ± 0.100"],
        ["story", "word_perplexity ↓", "50", "4322 ± 99", "4300 ± 99", "-21 ± 9"],
    ]
    for sentence in (
        "Sentiment on pairs-held-out: 0.400 ± 0.100 before, 0.700 ± 0.100 after training, at a KL of 1.25 ± 0.10 nats",
        "Judge longer: The run wins against its base: win rate 75.0 ± 10.0 %.",
        "<p>No task lost more than its interval.</p>",
    ):
        assert sentence in text


def test_the_curves_are_those_of_the_metrics(tmp_path):
    """Margin, both log-ratios, and the loss with its value at step 0."""
    recipe = made.run(tmp_path / "run")
    series = curves.read(tmp_path / "run" / "metrics.jsonl")
    figure = curves.figure(series, "x", recipe.method.large_panels)
    assert [axis.get_title(loc="left") for axis in figure.axes[:3]] == list(curves.large_panels(series))
    text = text_of(tmp_path / "run", recipe)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)" alt="([^"]+)"', text)
    assert [alt for _, alt in pictures] == [
        "margin: log-ratio of chosen − rejected, nats", "log-ratio log π − log π_ref, nats", "loss",
    ]  # fmt: skip
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data, _ in pictures)


@pytest.mark.parametrize(
    ("kind", "settings", "logged", "shown"),
    [
        (
            "unpaired",
            {"loss": "kto"},
            {"log_ratio/chosen": 1.0, "log_ratio/rejected": -1.0, "loss": 0.5},
            "margin: log-ratio",
        ),
        (
            "paired",
            {"loss": "simpo"},
            {"logps/chosen": -9.0, "logps/rejected": -8.0, "loss": 1.0},
            "log-probability of a",
        ),
        ("ppo", {"trainer": "ppo"}, {"score": 0.5, "kl/sequence": 2.0, "loss": 0.1}, "KL to the reference"),
        ("online", {"trainer": "online"}, {"score": 0.5, "kl/sequence": 2.0, "loss": 0.1}, "score and shaped reward"),
        (
            "reward",
            {"trainer": "reward"},
            {"margin": 1.0, "accuracy": 0.75, "loss": 0.6},
            "reward of chosen − rejected",
        ),
        ("sft", {"trainer": "sft"}, {"mean_token_accuracy": 0.5, "loss": 2.0}, "token accuracy"),
    ],
)
def test_every_kind_of_training_has_a_page(kind, settings, logged, shown, tmp_path):
    source = {"ppo": "demo-ppo", "online": "demo-online"}.get(kind, "demo")
    if kind in ("reward", "sft"):
        source = str(tmp_path / "plain.yaml")
        Path(source).write_text("{model_name_or_path: embedded, dataset_name: embedded, use_peft: true}")
    recipe = made.run(
        tmp_path / "run", metrics=[{"step": 1, **logged}, {"step": 2, **logged}], source=source, **settings
    )
    assert recipe.method is METHODS[kind]
    text = text_of(tmp_path / "run", recipe)
    assert any(alt.startswith(shown) for alt in re.findall(r'alt="([^"]+)"', text))
    assert "Evaluation</h2>" not in text and "Answers of base" not in text


def test_without_records_and_metrics_nothing_is_invented(tmp_path):
    recipe = made.run(tmp_path / "run", metrics=None)
    text = text_of(tmp_path / "run", recipe)
    assert "<h2>Training</h2>" not in text and "Evaluation</h2>" not in text and "<img" not in text
    assert "None" not in re.sub(r"none", "", text)


def test_a_run_that_was_interrupted_says_how_far_it_came(tmp_path):
    recipe = made.run(tmp_path / "run", is_finished=False)
    assert "The run has not finished. It has logged step 4 of 80 in 63 s." in text_of(tmp_path / "run", recipe)


def test_texts_of_data_and_models_are_shown_as_they_are(tmp_path):
    """Also where a name of a judge, a task, a warning or a setting has them."""
    warning = {"step": 2, "warning": "x", "text": f"warned {SCRIPT}"}
    recipe = made.run(tmp_path / "run", metrics=[*made.METRICS, warning], run_name=f"run {SCRIPT}")
    example = (f"prompt {SCRIPT}", f"base {SCRIPT} \ud800", f'tuned </p>"{SCRIPT}', (0.0, 1.0))
    records = {
        "eval_x": made.evaluation(examples=[example]),
        "judged_x": made.judged(judge=f"judge {SCRIPT}"),
        "tasks": {"tasks": {SCRIPT: made.TASKS["tasks"]["arithmetic"]}, "summary": SCRIPT},
    }
    made.leave(tmp_path / "run", **records)
    text = text_of(tmp_path / "run", recipe)
    assert text.count("<script>") == 1 and "alert('x')</script>" not in text
    shown = html.unescape(re.sub(r"</?mark>", "", text))
    for words in (
        f"prompt {SCRIPT}",
        f"base {SCRIPT} ?",
        f'tuned </p>"{SCRIPT}',
        f"judge {SCRIPT}",
        f"warned {SCRIPT}",
        f"run {SCRIPT}",
    ):
        assert words in shown, words


def test_the_page_refers_to_nothing_outside(tmp_path):
    recipe = made.run(tmp_path / "run")
    made.leave(tmp_path / "run", eval_x=made.evaluation())
    text = text_of(tmp_path / "run", recipe)
    assert not re.search(r"""(src|href)\s*=\s*["']?(?!["']?data:)|url\(|@import""", text)
    assert "default-src 'none'" in text  # a browser would refuse anything else
    assert 'name="viewport"' in text and "color-scheme: light dark" in text


def test_answers_that_differ_come_first_with_their_words_marked(tmp_path):
    examples = [
        ("same", "It was dull.", "It was dull.", (0.0, 0.0)),
        ("a little", "It was dull.", "It was good.", (0.0, 0.5)),
        ("much", "It was dull.", "It is very good.", (0.0, 1.0)),
        ("worse", "It was good.", "It was bad.", (0.75, 0.0)),
    ]
    recipe = made.run(tmp_path / "run")
    made.leave(tmp_path / "run", eval_x=made.evaluation(examples=examples), judged_longer=made.judged())
    text = text_of(tmp_path / "run", recipe)
    assert re.findall(r"<blockquote[^>]*>(.*?)</blockquote>", text) == ["much", "worse", "a little", "Why?", "same"]
    assert "4 of 5 answers differ." in text and "<summary>1 more prompt</summary>" in text
    assert ">It <mark>was dull</mark>.</p>" in text and ">It <mark>is very good</mark>.</p>" in text
    assert "<small>longer win</small>" in text and "<small>sentiment 0.75</small>" in text


def test_checkpoints_stand_beside_the_run(tmp_path):
    recipe = made.run(tmp_path / "run")
    made.leave(tmp_path / "run", eval_x=made.evaluation(0.8))
    for step, accuracy in ((40, 0.7), (5, 0.6)):
        made.leave(tmp_path / "run" / f"checkpoint-{step}", eval_x=made.evaluation(accuracy))
    found = rows(text_of(tmp_path / "run" / "checkpoint-40", recipe), "Evaluated on pairs-held-out")
    assert found[0] == ["", "base", "tuned", "checkpoint-5", "checkpoint-40"]
    (accuracies,) = [row[1:] for row in found if row[0].startswith("accuracy")]
    assert accuracies == ["0.500", "0.800 ± 0.100", "0.600 ± 0.100", "0.700 ± 0.100"]


def test_evaluations_under_other_conditions_have_tables_of_their_own(tmp_path):
    recipe = made.run(tmp_path / "run")
    made.leave(tmp_path / "run", eval_x=made.evaluation())
    fewer = made.evaluation(0.9)
    fewer["data"]["pairs"] = 3
    made.leave(tmp_path / "run" / "checkpoint-5", eval_x=fewer)
    text = text_of(tmp_path / "run", recipe)
    assert text.count("<h3>Evaluated on pairs-held-out</h3>") == 2 and "3 pairs; none was used" in text


def test_records_of_other_weights_and_damaged_ones_are_named_and_not_shown(tmp_path):
    recipe = made.run(tmp_path / "run")
    incomplete = {key: value for key, value in made.judged().items() if key != "tokens"}
    records = {"eval_old": made.evaluation(step=2), "eval_half": '{"data": ', "judged_x": incomplete, "tasks": "[]"}
    made.leave(tmp_path / "run", **records, eval_new=made.evaluation(0.75, step=4))
    text = text_of(tmp_path / "run", recipe)
    assert text.count("Evaluated on pairs-held-out</h3>") == 1 and "0.750 ± 0.100" in text
    assert "eval-old.json is not shown: the run was trained further since. Repeat the evaluation." in text
    for name in ("eval-half.json", "judged-x.json", "tasks.json"):
        assert f"{name} is not shown: it is not a complete record." in text


def test_settings_that_differ_come_first_and_secrets_are_hidden(tmp_path):
    env = {"WANDB_API_KEY": "abc123", "WANDB_PROJECT": "mine"}
    recipe = made.run(tmp_path / "run", beta=0.25, weight_decay=0.0, hub_token="hf_secret", env=env)
    (tmp_path / "run" / "run.log").write_text(
        "=== 2026-01-02 03:04:05 demo: dpo\ntrl-ext run demo --hub_token hf_secret --env '{WANDB_API_KEY: abc123}' --beta 0.25\n"
        "trl-ext is not a command here\n"
        "=== 2026-01-02 04:04:05 demo: dpo, from checkpoint-40\ntrl-ext run x.yaml --resume_from_checkpoint true\n",
        encoding="utf-8",
    )
    text = text_of(tmp_path / "run", recipe)
    changed = {
        name: (value, default) for name, value, default in rows(text, "Settings that differ from their defaults")[1:]
    }
    assert changed["beta"] == ("0.25", "0.1") and changed["max_steps"] == ("80", "-1")
    assert changed["hub_token"][0] == "…" and '"WANDB_PROJECT": "mine"' in changed["env"][0]
    others = dict(rows(text, "All other settings")[1:])
    assert (
        others["weight_decay"] == "0.0" and others["label_smoothing"] == "0.0" and not others.keys() & changed.keys()
    )
    assert "hf_secret" not in text and "abc123" not in text
    assert [when for when, _ in about.commands(tmp_path / "run")] == [
        "2026-01-02 03:04:05", "2026-01-02 04:04:05", "repeat it",
    ]  # fmt: skip
    assert "trl-ext run demo --hub_token … --env … --beta 0.25" in text


def test_a_mixed_loss_has_the_settings_of_its_parts(tmp_path):
    recipe = made.run(tmp_path / "run", loss={"dpo": 1.0, "sft": 0.2}, beta=0.25)
    changed, others = about.settings(recipe)
    assert ("dpo.beta", "0.25", "0.1") in changed and ("dpo.label_smoothing", "0.0", "0.0") in others


def test_a_directory_that_is_no_run_gets_no_page(tmp_path):
    made.leave(tmp_path / "merged", eval_x=made.evaluation())
    assert update(tmp_path / "merged") is None and not (tmp_path / "merged" / page.FILE).exists()
