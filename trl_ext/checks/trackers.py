"""Rules about `report_to`: the trackers of the installed transformers, read from its source. `requirements` asks for their packages."""

import importlib.util
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings
from trl_ext.support import messages

SOURCE = Path("integrations", "integration_utils.py")
TABLE = re.compile(r"^INTEGRATION_TO_CALLBACK = \{(.*?)^\}", re.MULTILINE | re.DOTALL)

PACKAGES = {
    "azure_ml": ("azureml", "azureml-mlflow"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "dagshub": ("dagshub", "dagshub"),
    "dvclive": ("dvclive", "dvclive"),
    "flyte": ("flytekit", "flytekit"),
    "mlflow": ("mlflow", "mlflow"),
    "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}
"""Trackers, the package each comes from, and its name for pip."""

INSTEAD = {"tensorboard": "tensorboardX"}
"""Packages that serve as well."""


@problem("report_to")
def report_to(s: Settings) -> Iterator[str]:
    """transformers looks at the names only after the weights are loaded."""
    given = s["report_to"]
    if "report_to" not in s or given is None:
        return
    allowed = ("all", "none", *trackers())
    for name in given if isinstance(given, list) else [given]:
        if name not in allowed:
            yield f"{s.where('report_to')} names {messages.shown(name)}: {messages.one_of(str(name), allowed)}"


@lru_cache
def trackers() -> tuple[str, ...]:
    """Names of the trackers that transformers knows."""
    folder = importlib.util.find_spec("transformers").submodule_search_locations[0]
    table = TABLE.search(Path(folder, SOURCE).read_text(encoding="utf-8"))
    return tuple(re.findall(r'"(\w+)":', table[1]))
