"""HTML templates, which lie beside this file; what is put into them is text, never markup."""

from __future__ import annotations

from importlib import resources
from typing import Any

from segmate_cli import __version__


def render(name: str, **values: Any) -> str:
    """A page of a template and its values."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        loader=jinja2.FunctionLoader(_resource),
    )
    template = environment.get_template(name)
    return template.render(style=_resource("style.css"), version=__version__, **values)


def _resource(name: str) -> str:
    return (resources.files("segmate_cli.look") / name).read_text(encoding="utf-8")
