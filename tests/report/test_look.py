"""Texts on the pages can be read in the light and in the dark scheme, and their HTML is well-formed."""

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.comparison.test_page import BASE, ROWS
from tests.evaluation.run_page import made
from trl_ext import report
from trl_ext.comparison import page as comparison
from trl_ext.evaluation.run_page.update import update

STYLE = (Path(report.__file__).parent / "base.html.j2").read_text(encoding="utf-8").partition("</style>")[0]
VARIABLES = dict(re.findall(r"(--\w+): (#\w+);", STYLE))
OPACITIES = sorted({float(value) for value in re.findall(r"opacity: ([\d.]+)", STYLE)})

SCHEMES = {"light": ("#fff", "#000"), "dark, Chrome": ("#121212", "#fff"), "dark, Firefox": ("#1c1b22", "#fbfbfe")}
"""`Canvas` and `CanvasText` of browsers."""

BACKGROUNDS = [(), ("--soft",), ("--best",), ("--mark",), ("--soft", "--mark")]
"""Colours that lie on the page under a text."""


def channels(colour: str) -> tuple[list[float], float]:
    """Red, green and blue from 0 to 1, and alpha."""
    digits = colour.lstrip("#")
    parts = [
        int(part, 16) / 255 for part in re.findall("..", digits if len(digits) > 4 else "".join(2 * d for d in digits))
    ]
    return parts[:3], parts[3] if len(parts) == 4 else 1.0


def over(colour: str | list[float], below: list[float], alpha: float = 1.0) -> list[float]:
    """A colour, or one with an opacity, on another."""
    top, own = channels(colour) if isinstance(colour, str) else (colour, 1.0)
    return [own * alpha * one + (1 - own * alpha) * other for one, other in zip(top, below, strict=True)]


def luminance(colour: list[float]) -> float:
    """Relative luminance of sRGB (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_contrasts_that_are_known():
    black, white = [0.0] * 3, [1.0] * 3
    assert contrast(black, white) == pytest.approx(21)
    assert contrast(channels("#767676")[0], white) == pytest.approx(4.54, abs=0.01)  # the example of WCAG's authors
    assert over("#0008", white) == pytest.approx([1 - 0x88 / 255] * 3)


def test_every_colour_is_one_of_those_checked_here():
    """Others are grey lines, and white behind pictures."""
    used = {*re.findall(r"#[0-9a-f]{3,8}\b", STYLE)}
    assert used - {*VARIABLES.values()} == {"#888c", "#fff"} and VARIABLES.keys() == {
        "--line",
        "--soft",
        "--best",
        "--mark",
    }
    assert not re.search(r"[^-]color: (?!light dark|inherit)", STYLE)  # all text has the scheme's colour


@pytest.mark.parametrize("scheme", SCHEMES)
def test_texts_have_contrast_in_both_schemes(scheme):
    canvas, text = SCHEMES[scheme]
    for layers, opacity in itertools.product(BACKGROUNDS, [1.0, *OPACITIES]):
        below = channels(canvas)[0]
        for name in layers:
            below = over(VARIABLES[name], below)
        assert contrast(over(text, below, opacity), below) >= 4.5, (layers, opacity)


class Checked(HTMLParser):
    """Fails for tags that are closed in another order, and collects ids and pictures without a text."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids = [], []
        self.feed(text)
        self.close()
        assert self.open == [] and len({*self.ids}) == len(self.ids)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        assert tag != "img" or given.get("alt")
        assert not (self.open[-1:] == ["p"] and tag in ("p", "div", "table", "dl", "details", "blockquote")), (
            "inside of a p"
        )
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()


def test_the_page_of_a_run_is_well_formed(tmp_path):
    recipe = made.run(tmp_path / "run")
    made.leave(tmp_path / "run", eval_x=made.evaluation(), judged_longer=made.judged(), tasks=made.TASKS)
    Checked(update(tmp_path / "run", recipe).read_text(encoding="utf-8"))


def test_the_page_of_a_comparison_is_well_formed(tmp_path):
    file = tmp_path / "page.html"
    shown = comparison.Shown("Title", "Caption.", {"one": b"1"})
    comparison.write(file, "Compared", ROWS, BASE, [shown], ["A fact."], pages={"dpo": "../dpo/report.html"})
    Checked(file.read_text(encoding="utf-8"))
