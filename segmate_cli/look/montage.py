"""A montage as a PNG: a row an organ, with its axial, coronal and sagittal plane."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from segmate_cli.look.content import Content
from segmate_cli.look.tiles import Tile, make_tile
from segmate_cli.look.views import PLANES
from segmate_cli.measurement import OrganStats
from segmate_cli.organs import Organ
from segmate_cli.report import volume_text

# Outlines are drawn at twice the size and shrunk, which makes their edges smooth.
_FINE = 2
_GAP, _LABEL, _BOX = 8, 190, (330, 220)
_TOP, _BOTTOM, _LEAST_WIDTH, _TALL = 40, 26, 480, 5
_GROUND, _INK, _SOFT = (18, 24, 30), (240, 244, 247), (168, 180, 190)
# With more organs than this the rows shrink, so that the picture stays one.
_MANY = 40
_NOTICE = "For research only, not for diagnosis. The patient's right is on the left."


def render_montage(content: Content) -> bytes:
    """The picture, as PNG; organs without a voxel have a row of words."""
    from PIL import Image, ImageDraw

    stats = content.found.stats
    scale = 1.0 if len(stats) <= _MANY else 0.4
    box = (round(_BOX[0] * scale), round(_BOX[1] * scale))
    tiles = [_tiles(content, each.organ, box) for each in stats]
    widths = [max((each[n].size[0] for each in tiles if each), default=0) for n in range(3)]
    rows = [_row(content, *both, widths) for both in zip(stats, tiles, strict=True)]
    # Side by side, so that the picture is not three times as high as it is wide.
    half = -(-len(rows) // 2) if len(rows) > _TALL else len(rows)
    columns = [part for part in (rows[:half], rows[half:]) if part]
    wide = sum(max(row.size[0] for row in part) + _GAP for part in columns) + _GAP
    high = max((sum(row.size[1] + _GAP for row in part) for part in columns), default=0)
    picture = Image.new("RGB", (max(wide, _LEAST_WIDTH), high + _TOP + _BOTTOM), _GROUND)
    pen = ImageDraw.Draw(picture)
    pen.text((12, 10), _heading(content), fill=_INK, font=_font(17))
    pen.text((12, high + _TOP + 2), _NOTICE, fill=_SOFT, font=_font(12))
    left = 0
    for part in columns:
        top = _TOP
        for row in part:
            picture.paste(row, (left, top))
            top += row.size[1] + _GAP
        left += part[0].size[0] + 2 * _GAP
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _row(content: Content, stats: OrganStats, tiles: Sequence[Tile], widths: list[int]) -> Any:
    """An organ's words and planes; tiles stand in columns of these widths."""
    from PIL import Image, ImageDraw

    height = max([44, *(tile.size[1] for tile in tiles)])
    width = _LABEL + sum(each + _GAP for each in widths)
    picture = Image.new("RGB", (width, height), _GROUND)
    _label(ImageDraw.Draw(picture), stats)
    left = _LABEL
    for tile, column in zip(tiles, widths, strict=False):
        picture.paste(_drawn(content, tile, stats.organ), (left, (height - tile.size[1]) // 2))
        left += column + _GAP
    return picture


def _heading(content: Content) -> str:
    model = (content.sidecar or {}).get("model")
    named = f"  \u00b7  {model.get('name', '?')}" if isinstance(model, dict) else ""
    return content.name + named


def _tiles(content: Content, organ: Organ, box: tuple[int, int]) -> Sequence[Tile]:
    shown = [content.views.get((organ.key, plane)) for plane in PLANES]
    values = sorted(content.found.organs)
    return [make_tile(view, values, box) for view in shown if view is not None]


def _label(pen: Any, stats: OrganStats) -> None:
    pen.rectangle((12, 6, 24, 18), fill=stats.organ.rgb)
    pen.text((32, 3), stats.organ.title, fill=_INK, font=_font(15))
    if stats.volume_ml is None:
        text = stats.status.kind.replace("_", " ")
    else:
        text = f"{volume_text(stats.volume_ml, stats.status.is_lower_bound)} ml"
    if stats.mean_hu is not None:
        text += f", {stats.mean_hu:.0f} HU"
    pen.text((32, 23), text, fill=_SOFT, font=_font(13))


def _drawn(content: Content, tile: Tile, organ: Organ) -> Any:
    """A tile with its outlines; the organ's own is the thickest, and on top."""
    from PIL import Image, ImageDraw

    columns, rows = tile.size
    large = Image.fromarray(tile.grey).convert("RGB")
    large = large.resize((columns * _FINE, rows * _FINE), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(large)
    own = set(content.values_of(organ.key))
    for outline in sorted(tile.outlines, key=lambda each: each.value in own):
        colour = content.found.organs[outline.value].rgb
        for polygon in outline.polygons:
            points = [(x, y) for x, y in (polygon * _FINE).tolist()]
            thick = 4 if outline.value in own else 2
            pen.line([*points, points[0]], fill=colour, width=thick, joint="curve")
    return large.resize((columns, rows), Image.Resampling.BOX)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
