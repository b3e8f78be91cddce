"""Say what to do about a column that a loss reads and the data does not have."""

MARGIN, GOLD = "margin", "gold"
WHAT = {
    MARGIN: "the reward of the chosen completion minus that of the rejected one",
    GOLD: "a completion that is better than the chosen one",
}
"""Columns that some losses read, and what they hold."""
EXAMPLES = {MARGIN: "reward_gap", GOLD: "reference"}
"""Names that such columns may have in the data."""
MADE_BY = {MARGIN: " `trl-ext pairs --write_margin` writes pairs with margins from scored completions."}


def missing(where: str, column: str, loss: str) -> str:
    """The sentence about a column that is not there.

    Args:
        where: The data, as the subject of a sentence.
        column: Of `WHAT`.
        loss: The name of the loss that reads it.
    """
    return (
        f"{where} has no column `{column}`, and the loss {loss} reads it: {WHAT[column]}. Add it, or name yours, as in "
        f"`dataset_columns: {{{column}: {EXAMPLES[column]}}}`.{MADE_BY.get(column, '')} Other losses do without."
    )
