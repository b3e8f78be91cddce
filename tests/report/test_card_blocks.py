"""A card that is written again, as at every checkpoint, after a resume and before a push: what is kept of the one before."""

from trl_ext.report import card_blocks


def card(head: str = "# run", steps: int = 4) -> str:
    return card_blocks.assemble(head, run=f"steps {steps}", results="", usage="Load it.")


def test_the_parts_of_a_card():
    assert card() == (
        "# run\n\n<!-- trl-ext: run ab5d1313 -->\nsteps 4\n<!-- trl-ext: end -->\n\n"
        "<!-- trl-ext: results, rewritten by each evaluation -->\n<!-- trl-ext: end -->\n\n"
        "<!-- trl-ext: usage -->\nLoad it.\n<!-- trl-ext: end -->\n"
    )


def test_edits_and_results_stay_when_the_run_goes_on(tmp_path):
    file = tmp_path / "README.md"
    card_blocks.rewrite(file, card(steps=4))
    card_blocks.put_results(file, "## Results\n\n0.8")
    edited = file.read_text().replace("# run", "# My run\n\nNotes.") + "The end.\n"
    file.write_text(edited)
    card_blocks.rewrite(file, card(steps=8))
    assert file.read_text() == edited.replace("steps 4", "steps 8")


def test_a_block_that_a_user_removed_stays_away(tmp_path):
    file = tmp_path / "README.md"
    card_blocks.rewrite(file, card())
    file.write_text(file.read_text().split("<!-- trl-ext: usage")[0])
    card_blocks.rewrite(file, card(steps=8))
    assert "Load it." not in file.read_text() and "steps 8" in file.read_text()


def test_the_card_of_another_run_or_name_is_written_again_with_its_results(tmp_path):
    """As by `push_to_hub`, which names the card after the repository."""
    file = tmp_path / "README.md"
    card_blocks.rewrite(file, card())
    card_blocks.put_results(file, "## Results\n\n0.8")
    file.write_text(file.read_text() + "Notes.\n")
    card_blocks.rewrite(file, card("# org/run"))
    assert file.read_text() == card("# org/run").replace("evaluation -->\n", "evaluation -->\n## Results\n\n0.8\n")
