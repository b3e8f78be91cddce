"""Render self-contained HTML pages: one look for all of them (`base.html.j2`), with their parts (`parts.html.j2`)."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from trl_ext.support import atomic


def write(page: Path, package: str, **content: Any) -> None:
    """Write a page. Texts are escaped; lone surrogates, which UTF-8 lacks, become question marks.

    Args:
        page: The HTML file.
        package: Package whose `page.html.j2` extends `base.html.j2`.
        content: What the template reads. Pictures are PNGs as bytes.
    """
    places = [jinja2.PackageLoader(name, ".") for name in (package, "trl_ext.report")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(places), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    text = environment.get_template("page.html.j2").render(**content)
    atomic.write(page, [text.encode("utf-8", "replace")])
