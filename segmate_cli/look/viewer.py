"""The viewer inside a page: NiiVue, as ``viewer/build.mjs`` bundles it, and what it shows."""

from __future__ import annotations

import base64
from importlib import resources
from typing import Any

import numpy as np

from segmate_cli.look.content import Content
from segmate_cli.look.solid import HIGH_HU, LOW_HU, STEP_HU, Solid
from segmate_cli.look.views import LUNG, SOFT_TISSUE, Window
from segmate_cli.measurement import OrganStats

_WIDE = Window("all", LOW_HU, HIGH_HU)
_WINDOWS = (SOFT_TISSUE, LUNG, _WIDE)
_VIEWS = (
    ("planes", "Three planes"),
    ("axial", "Axial"),
    ("coronal", "Coronal"),
    ("sagittal", "Sagittal"),
    ("solid", "Solid"),
)
# From the page's x, y and z to NIfTI's.
_RAS = np.array([-1.0, -1.0, 1.0])


def script() -> str:
    """The viewer's code; licences of what it is made of stand in it."""
    return (resources.files("segmate_cli.look") / "viewer.js").read_text(encoding="ascii")


def viewer_of(content: Content) -> dict[str, Any] | None:
    """What the template shows around the viewer, and ``data`` for its code; None without one."""
    if content.solid is None:
        return None
    solid = content.solid
    organs = [
        _organ(content, each, number) for number, each in enumerate(content.shown_in_solid, 1)
    ]
    return {
        "organs": organs,
        "windows": [(each.name, f"{each.name}, {each.words}") for each in _WINDOWS],
        "views": _VIEWS,
        "axes": _axes(solid),
        "note": _note(content, solid),
        "data": {
            "scan": base64.b64encode(solid.scan_nifti()).decode(),
            "labels": base64.b64encode(solid.labels_nifti()).decode(),
            "windows": {each.name: [each.low_hu, each.high_hu] for each in _WINDOWS},
            "organs": organs,
        },
    }


def _organ(content: Content, stats: OrganStats, number: int) -> dict[str, Any]:
    key = stats.organ.key
    centre = content.geometry.to_lps_mm(content.found.places[key].centre)
    return {
        "value": number,
        "title": stats.organ.title,
        "rgb": list(stats.organ.rgb),
        "colour": "#{:02x}{:02x}{:02x}".format(*stats.organ.rgb),
        "centre_mm": [round(n, 2) for n in (centre * _RAS).tolist()],
        "window": content.views[key, "axial"].window.name,
    }


def _axes(solid: Solid) -> list[dict[str, Any]]:
    """Names and ends of the patient's axes, for sliders."""
    ends = [(0, n - 1) for n in solid.geometry.shape]
    corners = solid.geometry.to_lps_mm(np.array(np.meshgrid(*ends)).reshape(3, -1).T)
    low, high = np.ceil(corners.min(axis=0)), np.floor(corners.max(axis=0))
    words = (("x", "right to left"), ("y", "front to back"), ("z", "feet to head"))
    return [
        {"axis": axis, "words": f"{axis}, {text}", "low": int(low[n]), "high": int(high[n])}
        for n, (axis, text) in enumerate(words)
    ]


def _note(content: Content, solid: Solid) -> str:
    size = " \u00d7 ".join(f"{n:.1f}" for n in reversed(solid.geometry.spacing_mm))
    text = (
        f"Voxels of {size} mm and steps of {STEP_HU} HU, to keep the page small; numbers and "
        "pictures are of the scan itself."
    )
    if content.geometry.places_mm is not None:
        text += " The scan's slices are uneven; here they are shown at even steps."
    return text
