"""Text for cells of Markdown tables."""


def in_cell(text: str) -> str:
    """Text for a cell: a bar would end it."""
    return text.replace("|", "\\|")


def paper(number: str) -> str:
    """A link to a paper, from `arXiv:NUMBER`."""
    return f"[{number}](https://arxiv.org/abs/{number.removeprefix('arXiv:')})"
