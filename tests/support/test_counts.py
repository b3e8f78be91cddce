"""One thing is singular and several are plural, in the functions and wherever a sentence has a count."""

import re
from pathlib import Path

import pytest

import trl_ext
from tests.recipe.helpers import load, problem
from trl_ext.cli.summary import summary
from trl_ext.support.counts import are, count, every, size_of, were


@pytest.mark.parametrize(
    ("n", "plural", "said"),
    [
        (1, "pairs", "1 pair"),
        (0, "pairs", "0 pairs"),
        (2312, "pairs", "2,312 pairs"),
        (1, "losses", "1 loss"),
        (1, "processes", "1 process"),
        (1, "entries", "1 entry"),
        (1, "labelled completions", "1 labelled completion"),
    ],
)
def test_counts(n, plural, said):
    assert count(n, plural) == said


def test_verbs_and_all():
    assert (are(1), are(2), were(1), were(0)) == ("is", "are", "was", "were")
    assert (every(1, "losses"), every(2, "rows")) == ("the only loss", "all 2 rows")


def test_a_recipe_of_one_of_each(tmp_path):
    text = "per_device_train_batch_size: 1\ngradient_accumulation_steps: 1\nmax_steps: 1\nwarmup_steps: 1\n"
    said = summary(load(tmp_path, text))
    assert said["step"] == "1 × 1 accumulated = 1 example per process" and said["duration"] == "1 step"
    assert said["learning rate"].endswith("warm-up over 1 step")
    online = "trainer: online\nloss: dpo\nuse_peft: true\nreward_funcs: [sentiment]\nnum_generations: 2\n"
    assert (
        "1 pair per step"
        in summary(load(tmp_path, f"{online}{text}".replace("batch_size: 1", "batch_size: 2")))["pairs"]
    )
    assert "`loss_weights` has 1 weight for 2 losses." in problem(
        tmp_path, "loss_type: [sigmoid, sft]\nloss_weights: [1.0]\n"
    )


def test_no_sentence_writes_a_plural_after_a_number_of_things():
    """By the source: a length in braces, then a plural word."""
    found = []
    for path in Path(trl_ext.__file__).parent.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for match in re.finditer(r"\{len\([^{}]*\)(?::,)?\} (?:[a-z-]+ )?([a-z]+s)\b", line):
                if match[1] not in ("is", "has", "was", "of", "as", "this", "its", "tokens", "scores", "processes"):
                    found.append(f"{path.name}:{number} {match[0]}")
    assert found == []


def test_sizes():
    assert [size_of(size) for size in (1_174_400, 999_999_999, 16_060_522_496, 123_400_000_000)] == [
        "1.17 MB",
        "1000 MB",
        "16.1 GB",
        "123 GB",
    ]
