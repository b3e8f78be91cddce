"""The files of a set of pairs: the data, where it comes from, and what is kept to continue."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.pairing.settings import Asked, changes
from trl_ext.support import atomic
from trl_ext.support.errors import UserError


class Output(NamedTuple):
    """Where a set of pairs is written.

    Attributes:
        data: The rows, a JSON object per line.
        provenance: JSON about their origin. It is written last, so that data with it is complete.
        kept: Folder of completions and scores.
        named: What `--dataset_name` is given: the folder, or the file.
    """

    data: Path
    provenance: Path
    kept: Path
    named: Path

    @classmethod
    def at(cls, place: Path) -> Output:
        """Of a folder; or of a file, if the name ends in .jsonl, with the rest beside it."""
        if place.suffix == ".jsonl":
            return cls(
                place, place.with_name(f"{place.stem}.provenance.json"), place.with_name(f"{place.stem}.kept"), place
            )
        return cls(place / "train.jsonl", place / "provenance.json", place / "kept", place)

    @property
    def settings(self) -> Path:
        """The settings of the command that writes here."""
        return self.kept / "settings.json"

    def completions(self, asked: Asked) -> Path:
        return self.kept / f"completions-{asked.of_completions}.jsonl"

    def scores(self, asked: Asked) -> Path:
        return self.kept / f"scores-{asked.of_scores}.jsonl"

    def is_complete(self) -> bool:
        return self.provenance.exists() and self.data.exists()

    def refuse_foreign(self) -> None:
        """Refuse a place that holds files of something else. Called before anything is loaded.

        Raises:
            UserError: Says what is there.
        """
        if self.settings.exists():
            return
        if self.named.is_file():
            raise UserError(
                f"`--output` is {self.named}, which exists and was not written by `trl-ext pairs`. Choose another name."
            )
        if self.named.is_dir() and any(each != self.kept for each in self.named.iterdir()):
            raise UserError(
                f"`--output` is {self.named}, a folder with files that `trl-ext pairs` did not write. Choose an empty or new "
                "folder."
            )

    def begin(self, asked: Asked, *, overwrite: bool) -> None:
        """Record the settings, or refuse others than those that were recorded here. The folder of what is kept is locked.

        Raises:
            UserError: Settings differ; names them.
        """
        atomic.remove_torn(self.settings, self.data, self.provenance)
        if self.settings.exists():
            changed = changes(json.loads(self.settings.read_text(encoding="utf-8")), asked.to_dict())
            if changed and not overwrite:
                raise UserError(
                    f"{self.named} holds data that was made with other settings: {', '.join(changed[:4])}. Choose another "
                    "`--output`, or add `--overwrite` to replace it."
                )
            if not changed:
                return
            for path in (self.provenance, self.data):
                path.unlink(missing_ok=True)
        atomic.write_json(self.settings, asked.to_dict())

    def write(self, rows: Iterable[dict[str, Any]], provenance: dict[str, Any]) -> None:
        """Write the data, then its provenance."""
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        atomic.write(self.data, (line.encode("utf-8", errors="surrogatepass") for line in lines))
        atomic.write_json(self.provenance, provenance)
