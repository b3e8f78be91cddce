"""Make the configuration of a recipe's trainer. Its trainer, which takes longer to import, is not needed for it."""

import os
import sys
from pathlib import Path
from typing import Any

from trl_ext.build.dtypes import Precision, precision
from trl_ext.methods import imported
from trl_ext.recipe import Recipe
from trl_ext.support import terminal
from trl_ext.support.errors import UserError


def training_config(recipe: Recipe, output_dir: Path, chosen: Precision | None = None) -> Any:
    """The trainer configuration of a recipe.

    Args:
        recipe: A loaded recipe.
        output_dir: Run directory.
        chosen: Dtypes, if they have been chosen already.

    Raises:
        UserError: With the message of TRL or transformers.
    """
    chosen = chosen or precision(recipe)
    # transformers' filter would log a lost (NaN) loss as 0.
    defaults = {"logging_nan_inf_filter": False, "report_to": "none"}
    defaults["disable_tqdm"] = (
        terminal.is_quiet() or not sys.stderr.isatty()
    )  # transformers derives it from its verbosity
    if chosen.training.get("use_cpu"):
        defaults["dataloader_pin_memory"] = False
    values = defaults | recipe.sections()["training"] | chosen.training | {"output_dir": str(output_dir)}
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        values.pop("ddp_backend", None)  # torch would look for the process group that a launcher makes
    try:
        return imported(recipe.method.config)(**values)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
