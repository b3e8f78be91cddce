"""Read the files of other programs: what each of their keys means in a recipe. One file per program, one table for all uses.

`validate` takes its remedies from the tables, and `trl-ext convert` writes a whole file as a recipe.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_ext.foreign.accelerate_file import ACCELERATE, DEEPSPEED
from trl_ext.foreign.axolotl import AXOLOTL
from trl_ext.foreign.dialect import Dialect, Values
from trl_ext.foreign.handbook import HANDBOOK
from trl_ext.foreign.llama_factory import LLAMA_FACTORY, LLAMA_FACTORY_V1, NO_TRAINING
from trl_ext.foreign.meaning import Meaning
from trl_ext.foreign.older_trl import OLDER_TRL
from trl_ext.foreign.plain_words import PLAIN_WORDS
from trl_ext.foreign.simpo import SIMPO
from trl_ext.foreign.trl_scripts import TRL_SCRIPTS
from trl_ext.support.errors import UserError

DIALECTS = (
    ACCELERATE, DEEPSPEED, AXOLOTL, NO_TRAINING, LLAMA_FACTORY_V1, LLAMA_FACTORY, SIMPO, HANDBOOK, TRL_SCRIPTS, OLDER_TRL,
    PLAIN_WORDS,
)  # fmt: skip
"""Every dialect. A file has the first that recognises it."""

_TABLES = (OLDER_TRL, TRL_SCRIPTS, HANDBOOK, SIMPO, LLAMA_FACTORY, AXOLOTL, PLAIN_WORDS)
"""Where a key is looked up that the dialect of its file does not have, in this order."""


def recognise(values: Values) -> Dialect | None:
    """The dialect that a file is written in; `None` for a recipe, and for a file of today's TRL."""
    return next((dialect for dialect in DIALECTS if dialect.is_written_in(values)), None)


def require_training(values: Values, path: Path) -> None:
    """UserError with what to do, if a file is known to describe no training: a launch, an export and the like."""
    dialect = recognise(values)
    if dialect is not None and dialect.not_a_recipe:
        raise UserError(dialect.not_a_recipe.format(file=path), about=str(path))


def meanings(
    key: str, value: Any, values: Values, dialect: Dialect | None = None, *, is_setting: bool = False
) -> tuple[Meaning, ...]:
    """What a key means in a recipe; empty if no program that is known here has it.

    Args:
        key: A key of a file, or of an older release.
        value: Its value, of any type.
        values: All values of the file.
        dialect: The dialect of the file, if it is recognised. Its table comes first.
        is_setting: The key is a setting of some kind of training. Then only the table of its own program can give it another
            meaning.
    """
    others = (OLDER_TRL,) if is_setting else _TABLES
    tables = others if dialect is None else (dialect, *others)
    return next((found for table in tables if (found := table.read(key, value, values))), ())


def complete(values: Mapping[str, Any], dialect: Dialect | None) -> dict[str, Any]:
    """The values of a file with the defaults of its program."""
    return {**(dialect.defaults(values) if dialect else {}), **values}
