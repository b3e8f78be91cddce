"""Upload the model of a run and what describes it, and nothing else that lies in its directory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import trainer

from trl_ext.support.published import RUN
from trl_ext.trainers.common.temporarily import temporarily


class _Selecting:
    """The Hub's client, which uploads only the published files of one folder."""

    def __init__(self, client: Any, folder: Path) -> None:
        self.client = client
        self.folder = folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def upload_folder(self, *, folder_path: str | Path, **given: Any) -> Any:
        if Path(folder_path).resolve() == self.folder:
            given["allow_patterns"] = list(RUN)
        return self.client.upload_folder(folder_path=folder_path, **given)


@contextlib.contextmanager
def of_run(directory: str | Path) -> Iterator[None]:
    """Context in which transformers' trainer uploads only published files of a run's directory.

    Its own list leaves out checkpoints only: a run that is resumed would upload the answers that an evaluation sampled, exported
    files and logs.
    """
    made, folder = trainer.hf_api, Path(directory).resolve()
    with temporarily(trainer, hf_api=lambda *args, **kwargs: _Selecting(made(*args, **kwargs), folder)):
        yield
