"""What both pages share: templates with escaped names, the style, the script; nothing is loaded from anywhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from plgen_ddp import __version__


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What was written: the file, its size in bytes, images in the gallery, labels of the first file."""

    path: Path
    size: int
    images: int
    labels: int


def rendered(template: str, content: Mapping[str, Any]) -> bytes:
    """The page of a template in UTF-8."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("plgen_ddp.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    loader = environment.loader
    assert loader is not None
    style, script = (Markup(loader.get_source(environment, name)[0]) for name in ("report.css", "report.js"))
    page = environment.get_template(template).render(content, style=style, script=script, version=__version__)
    return page.encode("utf-8", "replace")


def _number(value: float) -> str:
    """With thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")
