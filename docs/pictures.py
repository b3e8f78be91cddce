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
from trl_ext.comparison import pictures
from trl_ext.evaluation import results
from trl_ext.methods import METHODS
from trl_ext.report import axes, curves, panels

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
KEY = "Fingerprint"


class Picture(NamedTuple):
    """One picture: its name in `docs/`, the file of its data, the code that draws it, and a function of data and path."""

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


PICTURES = (
    Picture("demo-curves.png", RESULTS / "demo.json", (curves, panels, axes), _curves),
    Picture("demo-compare.png", RESULTS / "demo.json", (pictures, results, axes), _comparison),
    Picture("frontier.png", RESULTS / "frontier.json", (frontier_picture,), _frontier),
)


def stale(folder: Path = ROOT / "docs") -> list[Picture]:
    """The pictures that are missing, or that other data or other code has drawn."""
    return [picture for picture in PICTURES if _stamp(folder / picture.name) != fingerprint(picture)]


def draw(picture: Picture, folder: Path = ROOT / "docs") -> None:
    """Draw a picture from its data."""
    path = folder / picture.name
    picture.draw(json.loads(picture.data.read_text(encoding="utf-8")), path)
    with Image.open(path) as image:
        image.load()
    info = PngInfo()
    info.add_text(KEY, fingerprint(picture))
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(path, pnginfo=info, optimize=True)


def fingerprint(picture: Picture) -> str:
    """A digest of the picture's data and of the code that draws it."""
    parts = [picture.data.read_bytes(), *(Path(module.__file__).read_bytes() for module in picture.code)]
    return hashlib.sha256(b"\0".join(part.replace(b"\r\n", b"\n") for part in parts)).hexdigest()[:16]


def _stamp(path: Path) -> str | None:
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.text.get(KEY)
