"""Draw the pictures of the docs from saved results, and find those that are older than the results or than the program.

Every picture carries a fingerprint of its data and of the code that draws it. A check compares fingerprints, not pixels, as
these depend on the version of matplotlib.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks import frontier, frontier_picture
from benchmarks.real import picture as real_picture
from benchmarks.real import summary
from trl_ext.comparison import pictures
from trl_ext.evaluation import results
from trl_ext.methods import METHODS
from trl_ext.report import axes, curves, panels

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
KEY = "Fingerprint"


class Picture(NamedTuple):
    """One picture: its name in `docs/`, the file of its data or a folder of such files, the code that draws it, and a function
    of data and path. The data of a folder are the files' by their names.
    """

    name: str
    data: Path
    code: tuple
    draw: Callable[[dict, Path], object]


def _curves(record: dict, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder, "metrics.jsonl")
        metrics.write_text("".join(f"{json.dumps(line)}\n" for line in record["metrics"]), encoding="utf-8")
        start = curves.Start(math.log(2), "policy = reference")
        curves.draw(metrics, path, "demo: dpo on embedded", METHODS["paired"].large_panels, start)


def _comparison(record: dict, path: Path) -> None:
    pictures.frontier(path, record["rows"], record["base"])


def _frontier(record: dict, path: Path) -> None:
    frontier_picture.draw(record["cells"], frontier.METHODS, record["cells"][frontier.BEST_OF_N], path)


def _real(record: dict, path: Path) -> None:
    real_picture.draw(record, path)


PICTURES = (
    Picture("demo-curves.png", RESULTS / "demo.json", (curves, panels, axes), _curves),
    Picture("demo-compare.png", RESULTS / "demo.json", (pictures, results, axes), _comparison),
    Picture("frontier.png", RESULTS / "frontier.json", (frontier_picture,), _frontier),
    Picture("real.png", RESULTS / "real", (real_picture, summary), _real),
)


def stale(folder: Path = ROOT / "docs") -> list[Picture]:
    """The pictures that are missing, or that other data or other code has drawn."""
    return [picture for picture in PICTURES if _stamp(folder / picture.name) != fingerprint(picture)]


def draw(picture: Picture, folder: Path = ROOT / "docs") -> None:
    """Draw a picture from its data."""
    path = folder / picture.name
    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in _files(picture.data)}
    picture.draw(found if picture.data.is_dir() else found[picture.data.stem], path)
    with Image.open(path) as image:
        image.load()
    info = PngInfo()
    info.add_text(KEY, fingerprint(picture))
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(path, pnginfo=info, optimize=True)


def fingerprint(picture: Picture) -> str:
    """A digest of the picture's data and of the code that draws it."""
    files = [*_files(picture.data), *(Path(module.__file__) for module in picture.code)]
    parts = [file.read_bytes() for file in files]
    return hashlib.sha256(b"\0".join(part.replace(b"\r\n", b"\n") for part in parts)).hexdigest()[:16]


def _files(data: Path) -> list[Path]:
    return sorted(data.glob("*.json")) if data.is_dir() else [data]


def _stamp(path: Path) -> str | None:
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.text.get(KEY)
