"""The page of a comparison: what it says, and how it looks in a browser."""

import base64
import csv
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from trl_ext.comparison import page, pictures, samples
from trl_ext.evaluation import results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def estimate(value, half=0.1):
    return {"value": value, "low": value - half, "high": value + half}


def evaluation(score, kl, accuracy=0.8):
    """As `trl_ext.evaluation.evaluate` writes it, as far as it is read."""
    examples = [{"prompt": "Was it <b>good</b>?", "text": f"It scored {score}.", "scores": {"sentiment": score}}]
    return {
        "ranking": {"log_ratio": {"accuracy": estimate(accuracy), "margin": estimate(2.0)}},
        "log_ratio": {"chosen": estimate(1.0), "rejected": estimate(-1.0)},
        "sampled": {
            "kl": {"k1": estimate(kl)},
            "tokens": {"tuned": estimate(20), "base": estimate(18)},
            "ended": {"tuned": estimate(0.9), "base": estimate(0.95)},
            "scores": {"sentiment": {"tuned": estimate(score), "base": estimate(0.5)}},
            "examples": {"tuned": examples, "base": [{"prompt": "Was it <b>good</b>?", "text": "Base."}]},
        },
    }


PEAK = {"peak_bytes": 2**30, "peak_of": "process"}


def row(name, score, kl, loss=None):
    facts = {"name": name, "loss": loss or name, "beta": 0.1, "seed": 0, "learning_rate": 5e-6, "steps": 300}
    facts["command"] = f"trl-ext run my.yaml --loss {loss or name}"
    return results.of_run(evaluation(score, kl), **facts, seconds=12.0, **PEAK, cached=10, computed=0)


ROWS = [
    row("dpo", 0.9, 1.1),
    row("ipo", 0.85, 0.6),
    row("simpo-beta1", 0.6, 0.2, "simpo"),
    row("simpo-beta2", 0.7, 0.3, "simpo"),
]
BASE = results.of_base(evaluation(0, 0))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    metrics = folder / "metrics.jsonl"
    records = [
        {"step": s, "rewards/accuracies": 0.5 + s / 10, "logps/chosen": -20 - s, "logps/rejected": -22 - 2 * s}
        for s in range(4)
    ]
    metrics.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    pictures.frontier(folder / "frontier.png", ROWS, BASE)
    panels = pictures.movement_panels({run["name"]: metrics for run in ROWS}, ROWS, BASE)
    shown = [
        page.Shown("Frontier", "What.", {"frontier": (folder / "frontier.png").read_bytes()}),
        page.Shown("Movement", "How.", panels),
    ]
    page.write(folder / "report.html", "A comparison", ROWS, BASE, shown, ["Made here."])
    page.write_csv(folder / "comparison.csv", ROWS)
    return folder


def test_the_page_stands_alone(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    inline = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert [base64.b64decode(data)[1:4] for data in inline] == [b"PNG"] * 5
    assert "0.900 ± 0.100" in text and "-1.00 ± 0.10" in text and "12</td>" in text


def test_texts_are_shown_as_they_are(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "Was it &lt;b&gt;good&lt;/b&gt;?" in text and "<mark>It scored 0" in text and "Base" in text


def test_the_summary_claims_what_intervals_tell():
    said = page.summary(ROWS, BASE)
    assert said.startswith(
        "dpo has the highest sentiment: 0.900 ± 0.100. Tied with it (overlapping 95 % intervals): ipo. "
    )
    assert (
        "simpo-beta1 has the lowest KL to the base: 0.20 ± 0.10 nats per completion. Tied with it (overlapping 95 % "
        "intervals): simpo-beta2. " in said
    )
    assert "Tied" not in page.summary(ROWS[::2], BASE)
    assert "intervals): simpo-beta1, base. " in page.summary([row("dpo", 0.65, 1), ROWS[2]], BASE)
    assert page.summary(ROWS[:1], BASE) == ""
    alone = {**ROWS[2], "score/sentiment": {"value": 0.6, "low": None, "high": None}}  # of one completion
    assert "intervals): simpo-beta1. " in page.summary([ROWS[0], alone], BASE)


def test_rows_are_in_the_order_of_what_they_gained_and_shaded_as_far_as_their_intervals_separate():
    rows = page.table(ROWS, BASE)["rows"]
    assert [line[0]["text"] for line in rows] == ["base", "dpo", "ipo", "simpo-beta2", "simpo-beta1"]
    assert [line[1]["is_best"] for line in rows] == [
        False,
        True,
        True,
        False,
        False,
    ]  # 0.70 ± 0.10 is below 0.90 ± 0.10


def test_a_peak_says_whose_it_is(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "peak, GiB" in text and "1.00</td>" in text and "maximum main memory of the process" in text
    unknown = [{**run, "peak_bytes": None, "peak_of": None} for run in ROWS]
    assert "peak, GiB" not in page.table(unknown, BASE)["headings"] and page.legend(unknown)[-1].startswith(
        "Peak memory is unknown"
    )
    assert page.legend([{**ROWS[0], "peak_of": "GPU"}])[-1].startswith("Peak: maximum GPU memory")


def test_without_scores_accuracy_is_compared():
    plain = [{key: value for key, value in run.items() if not key.startswith(results.SCORE)} for run in ROWS]
    assert results.gain(plain)[0] == "accuracy" and "accuracy on held-out pairs" in page.summary(plain, BASE)


def test_the_table_for_spreadsheets(written):
    with (written / "comparison.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == ["dpo", "ipo", "simpo-beta1", "simpo-beta2"]
    assert (
        lines[0]["peak_of"] == "process"
        and float(lines[0]["score/sentiment"]) == 0.9
        and float(lines[1]["kl_low"]) == pytest.approx(0.5)
    )


def test_the_frontier_is_at_the_measured_places(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(pictures, "_save", lambda figure, _: drawn.append(figure))
    pictures.frontier(tmp_path / "x.png", ROWS, BASE)
    (axis,) = drawn[0].axes
    places = [container.lines[0].get_xydata().tolist() for container in axis.containers]
    assert places == [[[1.1, 0.9]], [[0.6, 0.85]], [[0.2, 0.6], [0.3, 0.7]], [[0, 0.5]]]


def logged(file, records):
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return file


def test_a_loss_without_a_reference_borrows_that_of_a_run_on_the_same_examples(tmp_path):
    """log π_base of a batch is −20 and −22 at step 1, −26 and −25 at step 2, whatever the policy gives to it."""
    base = {1: (-20.0, -22.0), 2: (-26.0, -25.0)}

    def records(ratios, has_reference, tokens=100.0):
        for step, ratio in ratios.items():
            logps = {f"logps/{side}": base[step][i] + ratio[i] for i, side in enumerate(("chosen", "rejected"))}
            known = {f"log_ratio/{side}": ratio[i] for i, side in enumerate(("chosen", "rejected"))}
            yield {"step": step, "num_tokens": step * tokens, **logps, **(known if has_reference else {})}
        yield {"step": 2, "warning": "x", "text": "y"}

    with_reference, without = {1: (0.0, 0.0), 2: (1.0, -2.0)}, {1: (0.0, 0.0), 2: (0.5, -0.25)}
    runs = {
        "dpo": logged(tmp_path / "dpo", records(with_reference, True)),
        "simpo": logged(tmp_path / "simpo", records(without, False)),
        "simpo-seed1": logged(tmp_path / "seed1", records(without, False)),
        "orpo": logged(tmp_path / "orpo", records(without, False, tokens=90.0)),
    }
    found = pictures.log_ratios(runs, {"dpo": 0, "simpo": 0, "simpo-seed1": 1, "orpo": 0})
    assert found == {"dpo": ([1, 2], ([0.0, 1.0], [0.0, -2.0])), "simpo": ([1, 2], ([0.0, 0.5], [0.0, -0.25]))}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at the page with")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(written, tmp_path, width):
    """No console message, every picture loaded, and nothing wider than the window, on a phone too."""
    probe = """<script>addEventListener('load', () => { document.title = JSON.stringify({
      images: [...document.images].map(image => image.naturalWidth),
      page: document.documentElement.scrollWidth, window: innerWidth,
      font: parseFloat(getComputedStyle(document.querySelector('p')).fontSize)}) })</script>"""
    text = (written / "report.html").read_text(encoding="utf-8")
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace("</html>", f"{probe}</html>"), encoding="utf-8")
    found, log = dump(probed, width, tmp_path)
    assert "CONSOLE" not in log, log
    assert len(found["images"]) == 5 and min(found["images"]) > 500
    assert found["page"] <= found["window"] and found["font"] >= 15


def dump(file: Path, width: int, scratch: Path) -> tuple[dict, str]:
    """What the probe found, and the browser's log. The window of a headless browser is no narrower than 500 pixels, so the
    page stands in a frame."""
    frame = scratch / "frame.html"
    frame.write_text(
        f"<iframe id=f src='{file.name}' style='width:{width}px;height:3000px;border:0'></iframe>"
        "<script>const f = document.getElementById('f');"
        "f.onload = () => setTimeout(() => {document.body.id = f.contentDocument.title}, 300)</script>",
        encoding="utf-8",
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={scratch / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    done = subprocess.run([*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=900)
    found = re.search(r'<body id="(.*?)"', done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    return json.loads(html.unescape(found[1])), done.stderr


def test_words_that_differ_are_marked():
    assert samples.marked("We found the bed dull.", "We found the bed very lovely.") == [
        ("We found the bed ", False),
        ("very lovely", True),
        (".", False),
    ]
    assert samples.marked("The same.", "The same.") == [("The same.", False)]
    assert samples.marked("", "New words") == [("New words", True)]


def sampled(name, *texts, scores=None):
    prompts = ("first", "second", "third")[: len(texts)]
    scores = scores or [0.5] * len(texts)
    each = zip(prompts, texts, scores, strict=True)
    return {"name": name, "samples": [{"prompt": p, "text": t, "scores": {"true reward": s}} for p, t, s in each]}


def test_prompts_on_which_runs_differ_come_first():
    base = sampled("base", "a b", "a b", "a b")
    one = sampled("dpo", "a b", "a c", "a c", scores=(1, 1, 0))
    other = sampled("ipo", "a b", "a d", "a d", scores=(1, 1, 1))
    found = samples.side_by_side([one, other], base)
    assert [each["prompt"] for each in found] == ["third", "second", "first"]  # by rewards where as many texts differ
    assert found[0]["completions"][1] == {
        "name": "dpo",
        "scores": [("true reward", 0)],
        "parts": [("a ", False), ("c", True)],
    }
    written_before = {"name": "x", "samples": [{"prompt": "first", "text": "a b"}]}  # by a version without scores
    assert samples.side_by_side([written_before], base)[0]["completions"][1]["scores"] == []


def test_the_page_has_settings_commands_and_scores(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert page.settings(ROWS) == {
        "headings": ["run", "loss", "beta", "learning rate", "steps", "seed"],
        "rows": [
            ["dpo", "dpo", "0.1", "5e-06", "300", "0"],
            ["ipo", "ipo", "0.1", "5e-06", "300", "0"],
            ["simpo-beta1", "simpo", "0.1", "5e-06", "300", "0"],
            ["simpo-beta2", "simpo", "0.1", "5e-06", "300", "0"],
        ],
    }
    assert "<td>5e-06</td><td>300</td><td>0</td>" in text
    assert "<code>trl-ext run my.yaml --loss dpo</code>" in text and "<small>sentiment 0.90</small>" in text
    assert text.count('<p class="dim hint">Scroll the table sideways') == 2


def test_single_points_have_markers(monkeypatch, tmp_path):
    file = logged(tmp_path / "one", [{"step": 7, "logps/chosen": -1.0, "logps/rejected": -2.0, **LOGGED_RATIOS}])
    drawn = []
    monkeypatch.setattr(pictures, "_save", lambda figure, _: drawn.append(figure))
    pictures.movement(tmp_path / "x.png", {"dpo": file}, ROWS[:1], BASE)
    lines = [axis.get_lines()[0] for axis in drawn[0].axes[:3]]
    assert [line.get_xydata().tolist() for line in lines] == [[[7, 1e-7]], [[7, 2e-7]], [[7, 1e-7]]]
    assert all(line.get_marker() == "o" for line in lines)
    assert all(axis.get_ylim()[1] - axis.get_ylim()[0] >= 1 for axis in drawn[0].axes[:3])  # rounding is no change


LOGGED_RATIOS = {"log_ratio/chosen": 2e-7, "log_ratio/rejected": 1e-7}


def test_a_line_joins_betas_and_not_seeds(monkeypatch, tmp_path):
    def joined(*facts):
        runs = [row(f"dpo-{i}", 0.5 + i / 10, 1 + i, "dpo") | each for i, each in enumerate(facts)]
        drawn = []
        monkeypatch.setattr(pictures, "_save", lambda figure, _: drawn.append(figure))
        pictures.frontier(tmp_path / "x.png", runs, BASE)
        return sum(line.get_linestyle() == "-" and len(line.get_xdata()) > 1 for line in drawn[0].axes[0].lines)

    assert joined({"seed": 0, "beta": 1}, {"seed": 0, "beta": 2}) == 1
    assert joined({"seed": 0}, {"seed": 1}) == 0
