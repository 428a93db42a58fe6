"""HTML templates, which lie beside this file; what is put into them is text, never markup."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from segmate_cli import __version__


def render(name: str, script: str = "", **values: Any) -> str:
    """A page of a template and its values; the policy allows ``script`` alone, or none at all."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        loader=jinja2.FunctionLoader(_resource),
    )
    template = environment.get_template(name)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(
        style=_resource("style.css"),
        version=__version__,
        script=script,
        script_hash=f"sha256-{digest}" if script else "",
        **values,
    )


def _resource(name: str) -> str:
    return (resources.files("segmate_cli.look") / name).read_text(encoding="utf-8")
