"""Views as small pictures with smooth outlines, in pixels of equal size in mm."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.errors import EngineMissingError
from segmate_cli.look.views import Grey, View

Points = npt.NDArray[np.float64]

# An outline may pass beside where the voxels have it by a fifth of a pixel of the picture.
_STRAIGHT_PIXELS = 0.2
_HALF = 127.5


@dataclass(frozen=True, slots=True)
class Outline:
    """The contours of one label value: closed polygons (n, 2) of (column, row) in pixels."""

    value: int
    polygons: tuple[Points, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture of a view.

    Attributes:
        view: What it shows.
        grey: (rows, columns) 0 to 255; black without a CT.
        outlines: Of the label values asked for that are in it.
        pixel_mm: Size of a pixel.
    """

    view: View
    grey: Grey
    outlines: tuple[Outline, ...]
    pixel_mm: float

    @property
    def size(self) -> tuple[int, int]:
        """(columns, rows)."""
        return self.grey.shape[1], self.grey.shape[0]


def check_libraries() -> None:
    """Refuse to go on without what draws.

    Raises:
        EngineMissingError: It is not installed.
    """
    import importlib.util

    for module, package in (("PIL", "pillow"), ("contourpy", "contourpy"), ("jinja2", "jinja2")):
        if importlib.util.find_spec(module) is None:
            raise EngineMissingError(
                f"pages and pictures need {package}; pip install 'segmate-cli[html]'."
            )


def make_tile(view: View, values: Iterable[int], box: tuple[int, int]) -> Tile:
    """Scale a view into a box of (columns, rows) and trace the labels in it."""
    from PIL import Image

    height_mm, width_mm = (
        n * size for n, size in zip(view.labels[0].shape, view.pixel_mm, strict=True)
    )
    scale = min(box[0] / width_mm, box[1] / height_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    if view.grey is None:
        grey = np.zeros(size[::-1], np.uint8)
    else:
        picture = Image.fromarray(view.grey).resize(size, Image.Resampling.BICUBIC)
        grey = np.asarray(picture)
    present = {value for sheet in view.labels for value in np.unique(sheet).tolist()} - {0}
    outlines = (_outline(view, value, size) for value in values if value in present)
    return Tile(view, grey, tuple(outlines), 1.0 / scale)


def _outline(view: View, value: int, size: tuple[int, int]) -> Outline:
    """Where a label interpolated like the picture passes one half."""
    from PIL import Image

    inside = np.any([sheet == value for sheet in view.labels], axis=0)
    mask = Image.fromarray(inside.astype(np.uint8) * 255)
    scaled = np.asarray(mask.resize(size, Image.Resampling.BILINEAR), dtype=np.float64)
    return Outline(value, tuple(trace(scaled, _HALF)))


def trace(values: npt.NDArray[np.float64], level: float) -> list[Points]:
    """Closed polygons (n, 2) of (column, row) around what is over a level.

    A pixel's centre is at its index plus one half. Contours close along the picture's edge.
    """
    import contourpy

    rows, columns = np.flatnonzero((values > level).any(1)), np.flatnonzero((values > level).any(0))
    if not rows.size:
        return []
    # Contours need a pixel around them, and what is outside the picture counts as empty.
    padded = np.pad(values, 1)[rows[0] : rows[-1] + 3, columns[0] : columns[-1] + 3]
    lines: Any = contourpy.contour_generator(z=padded, name="serial").lines(level)
    corner = np.array([columns[0], rows[0]]) - 0.5
    limits = np.array([values.shape[1], values.shape[0]], dtype=np.float64)
    return [simplified(np.clip(line[:-1] + corner, 0, limits)) for line in lines if len(line) > 3]


def simplified(polygon: Points) -> Points:
    """Drop points, every second at a time, that lie close to the line past them."""
    for parity in (0, 1, 0, 1, 0, 1):
        if len(polygon) < 8:
            break
        before, after = np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0)
        along = after - before
        beside = polygon - before
        length = np.hypot(*along.T)
        cross = along[:, 0] * beside[:, 1] - along[:, 1] * beside[:, 0]
        near = np.abs(cross) <= _STRAIGHT_PIXELS * length
        near[(np.arange(len(polygon)) % 2 == parity) | (length == 0)] = False
        # The first and last are neighbours: never both.
        near[-1] &= not near[0]
        polygon = polygon[~near]
    return polygon


def jpeg(grey: Grey, quality: int) -> bytes:
    """A picture as JPEG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def svg_path(polygons: Iterable[Points]) -> str:
    """Polygons as the data of an SVG path, in tenths of a pixel."""
    parts = []
    for polygon in polygons:
        whole = np.rint(polygon * 10).astype(int)
        steps = np.diff(whole, axis=0)
        steps = steps[(steps != 0).any(axis=1)]
        first = f"M{whole[0, 0]} {whole[0, 1]}l"
        parts.append(first + " ".join(f"{x} {y}" for x, y in steps.tolist()) + "z")
    return "".join(parts)


def scale_bar_mm(width_mm: float) -> int:
    """A round length of about a quarter of a picture's width."""
    wanted = max(width_mm / 4, 1e-3)
    power = 10 ** math.floor(math.log10(wanted))
    return int(max(1, max(f * power for f in (1, 2, 5) if f * power <= wanted)))
