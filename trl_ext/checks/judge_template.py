"""Read the file of a judge's template, and find out what it lacks."""

from pathlib import Path

from trl_ext.support.messages import joined

PLACEHOLDERS = ("{prompt}", "{first}", "{second}")
"""Where the prompt and the two answers are put."""
FIRST, SECOND, TIE = "[[FIRST]]", "[[SECOND]]", "[[TIE]]"
"""The marks from which a verdict is read."""


def read(path: Path, *, needs_marks: bool = True) -> str:
    """The text of a template file.

    Args:
        path: The file.
        needs_marks: Whether it has to ask for the marks of both verdicts, as one for an API has to.

    Raises:
        ValueError: It cannot be read, or lacks something. The message is the end of a sentence that begins with the path.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not a text in UTF-8. Save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read ({getattr(error, 'strerror', None) or error}). Check the path.") from None
    if absent := [placeholder for placeholder in PLACEHOLDERS if placeholder not in text]:
        raise ValueError(f"lacks {joined(absent)}. A template needs {joined(list(PLACEHOLDERS))}, once or more each.")
    if absent := [mark for mark in (FIRST, SECOND) if mark not in text and needs_marks]:
        raise ValueError(
            f"does not ask for {joined(absent)}. A verdict is read from {FIRST}, {SECOND}, {TIE} at the end of the judge's "
            f"reply: name these marks in the template ({TIE} only if ties are allowed)."
        )
    return text
