"""Self-contained HTML pages from the templates of this folder."""

import base64
from collections.abc import Mapping
from pathlib import Path

__all__ = ["image_uri", "render_page"]


def render_page(template: str, view: Mapping[str, object]) -> str:
    """Fill in a template; texts are escaped, and a name that the view lacks is an error.

    Args:
        template: its file's name.
        view: what it shows.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pyramid_moa.training", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(view)


def image_uri(image: Path) -> str:
    """Inline an SVG as an image, where nothing in it can run and no id meets another's."""
    return f"data:image/svg+xml;base64,{base64.b64encode(image.read_bytes()).decode('ascii')}"
