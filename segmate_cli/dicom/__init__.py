"""DICOM CT: find the series in a folder, file or archive, choose one, read it as a volume.

`find_series` reads headers only and accounts for every file, `choose_series` takes the series that
is clearly the best or the one asked for, `read_series` reads its voxels.
"""

from __future__ import annotations

from segmate_cli.dicom.choice import (
    Choice,
    check_damaged,
    choose,
    choose_series,
    none_found,
    series_table,
)
from segmate_cli.dicom.decode import SYNTAX_NAMES
from segmate_cli.dicom.files import FileList, Place
from segmate_cli.dicom.finding import Finding, find_series
from segmate_cli.dicom.pixels import as_scan as _as_scan
from segmate_cli.dicom.scoring import Score, score
from segmate_cli.dicom.series import SeriesInfo
from segmate_cli.dicom.stack import Gap
from segmate_cli.volume import Scan, Volume

__all__ = [
    "SYNTAX_NAMES",
    "Choice",
    "FileList",
    "Finding",
    "Gap",
    "Place",
    "Score",
    "SeriesInfo",
    "as_scan",
    "choose",
    "choose_series",
    "find_series",
    "none_found",
    "read_series",
    "score",
    "series_table",
]


def as_scan(where: Finding | Place, series: SeriesInfo) -> Scan:
    """The series, ready to be read slice by slice; see `segmate_cli.dicom.pixels.as_scan`."""
    if not isinstance(where, Finding):
        return _as_scan(where, series)
    check_damaged(where, series)
    return _as_scan(where.path, series)


def read_series(where: Finding | Place, series: SeriesInfo) -> Volume:
    """All voxels of a series as Hounsfield units; see `segmate_cli.dicom.pixels.as_scan`."""
    return as_scan(where, series).read()
