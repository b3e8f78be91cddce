"""The results in a model card: what a viewer shows of them, and that everything else in the card stays."""

import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from tests.evaluation.run_page import made
from trl_ext.evaluation.run_page.update import update
from trl_ext.report import card_blocks

CARD = card_blocks.assemble(
    "---\nlibrary_name: peft\n---\n\n# run", run="| | |\n|---|---|\n| seed | `0` |", results="", usage="Load it."
)


class Cells(HTMLParser):
    """The texts of the cells of all tables, and the tags of the page."""

    def __init__(self, card: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.is_in_cell = False
        self.feed(MarkdownIt("commonmark").enable("table").render(card))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.is_in_cell = True
        elif tag == "br":
            self.handle_data("\n")

    def handle_data(self, data):
        if self.is_in_cell:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        self.is_in_cell = self.is_in_cell and tag not in ("td", "th")


def shown(directory) -> Cells:
    text = (directory / "README.md").read_text(encoding="utf-8")
    return Cells(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL))


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "run"
    recipe = made.run(directory)
    (directory / "README.md").write_text(CARD, encoding="utf-8")
    return directory, recipe


def test_the_card_has_the_results_and_three_samples(run):
    directory, recipe = run
    examples = [(f"prompt {i}", "It was dull.", f"It was {'very ' * i}good.", (0.0, 0.5)) for i in range(5)]
    made.leave(
        directory, eval_x=made.evaluation(examples=examples), judged_longer=made.judged(examples=[]), tasks=made.TASKS
    )
    update(directory, recipe)
    rows = shown(directory).rows
    assert ["accuracy on held-out pairs", "0.500", "0.800 ± 0.100"] in rows and ["win rate", "75.0 ± 10.0 %"] in rows
    assert ["arithmetic", "acc", "50", "0.500 ± 0.100", "0.450 ± 0.100", "-0.050 ± 0.100"] in rows
    prompts = [row[0] for row in rows if row and row[0].startswith("prompt ")]
    assert prompts == ["prompt 4", "prompt 3", "prompt 2"]  # those that differ most
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert card.index("| seed |") < card.index("## Results") < card.index("Load it.")


def test_texts_of_models_cannot_change_the_card(run):
    """Markup, the ends of cells and blocks, and lines that begin like Markdown's."""
    directory, recipe = run
    nasty = "<script>x</script> | a *b* _c_ `d` [e](http://f) <!-- trl-ext: end --> &amp; $1$ \\| ~~g~~\n# h\n---\n- i"
    made.leave(directory, eval_x=made.evaluation(examples=[("p | <b>", "base", nasty, (0.0, 1.0))]))
    for _ in range(2):  # the second time, the block is found again
        update(directory, recipe)
    found = shown(directory)
    assert ["p | <b>", "base", nasty] in [[cell.strip() for cell in row] for row in found.rows]
    assert not found.tags & {"script", "b", "em", "code", "a", "s"} - {"code"} and "del" not in found.tags
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert card.endswith("Load it.\n<!-- trl-ext: end -->\n") and card.count("## Results") == 1


def test_what_users_wrote_stays(run):
    directory, recipe = run
    before, after = CARD.replace("\n", "\r\n").split("<!-- trl-ext: results")
    edited = before.replace("library_name: peft", "library_name: peft\r\nlicense: mit").replace(
        "| `0` |", "| `0`, I think |"
    )
    edited += "## My notes\r\n\r\nDo not use. \xff<!-- mine -->\r\n\r\n<!-- trl-ext: results" + after + "The end.\r\n"
    (directory / "README.md").write_bytes(edited.encode("latin-1"))
    made.leave(directory, eval_x=made.evaluation(0.8))
    update(directory, recipe)
    first = (directory / "README.md").read_bytes()
    made.leave(directory, eval_x=made.evaluation(0.9))
    update(directory, recipe)
    second = (directory / "README.md").read_bytes()
    for found, value in ((first, b"0.800"), (second, b"0.900")):
        assert value in found and (value == b"0.900") == (b"0.800" not in found)
        begin, end = (
            found.index(b"<!-- trl-ext: results"),
            found.index(b"<!-- trl-ext: end -->", found.index(b"## Results")),
        )
        untouched = edited.encode("latin-1")
        start = untouched.index(b"<!-- trl-ext: results")
        stop = untouched.index(b"<!-- trl-ext: end -->", start)
        assert found[:begin] == untouched[:start] and found[end:] == untouched[stop:]


@pytest.mark.parametrize(
    "card", ["# A card of an earlier version\n\nText.\n", "# x\n<!-- trl-ext: results -->\nhalf of a block\n"]
)
def test_a_card_without_the_block_gets_one_at_its_end(card, run):
    directory, recipe = run
    (directory / "README.md").write_text(card)
    update(directory, recipe)
    assert (directory / "README.md").read_text() == card  # nothing was measured
    made.leave(directory, eval_x=made.evaluation())
    for _ in range(2):
        update(directory, recipe)
    found = (directory / "README.md").read_text(encoding="utf-8")
    assert found.startswith(card.rstrip()) and found.count("## Results") == 1


def test_no_card_and_no_results_of_checkpoints(run):
    directory, recipe = run
    made.leave(directory / "checkpoint-5", eval_x=made.evaluation())
    update(directory, recipe)
    assert (directory / "README.md").read_text(encoding="utf-8") == CARD
    (directory / "README.md").unlink()
    made.leave(directory, eval_x=made.evaluation())
    update(directory, recipe)
    assert not (directory / "README.md").exists()


def test_results_of_weights_that_were_trained_further_leave_the_card(run):
    directory, recipe = run
    made.leave(directory, eval_x=made.evaluation(step=4))
    update(directory, recipe)
    assert "## Results" in (directory / "README.md").read_text(encoding="utf-8")
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 0.1}\n')
    update(directory, recipe)
    assert (directory / "README.md").read_text(encoding="utf-8") == CARD
