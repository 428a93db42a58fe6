"""What segmate sees in a file or folder, before it runs: headers, values, and what would happen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segmate_cli import files, nifti, nifti_labels, scans
from segmate_cli.errors import AmbiguousSeriesError, SegmateError, UnreadableError
from segmate_cli.geometry import Geometry
from segmate_cli.hounsfield import check_hu

if TYPE_CHECKING:
    from segmate_cli.dicom import Finding, SeriesInfo
    from segmate_cli.dicom.files import Place

# A name for each slice is for programs.
_ONLY_JSON = "slice_files"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was seen.

    Attributes:
        data: All of it, as plain data for JSON.
        overview: A table for people, a line a series; "" where there are none.
    """

    data: dict[str, Any]
    overview: str = ""

    @property
    def text(self) -> str:
        """The same for people: the table, then ``name: value`` a line, lists indented."""
        overview = f"{self.overview}\n\n" if self.overview else ""
        return overview + "\n".join(_lines(self.data, 0)) + "\n"


def inspect_path(path: Place) -> Inspection:
    """Describe a scan, a label map, or DICOM series.

    Raises:
        InputError: There is nothing that can be described.
    """
    if isinstance(path, Path) and not files.exists(path):
        raise UnreadableError(f"{path}: there is no such file or folder; check the path.")
    if isinstance(path, Path) and nifti.is_nifti_name(path):
        return Inspection(_inspect_nifti(path))
    from segmate_cli import dicom

    finding = dicom.find_series(path)
    overview = dicom.series_table(finding.series) if finding.series else ""
    return Inspection(_describe_dicom(finding), overview)


def _inspect_nifti(path: Path) -> dict[str, Any]:
    file = scans.open_header(path)
    found: dict[str, Any] = {
        "path": str(path),
        "kind": "nifti",
        **describe_geometry(file.geometry),
        "stored_type": str(file.dtype),
        "slope": file.slope,
        "intercept": file.intercept,
    }
    names = nifti_labels.label_names(file)
    if names:
        found["labels"] = {value: organ.key for value, organ in names.items()}
        return found
    volume = nifti.read_volume(file)
    found["values_hu"] = {"min": int(volume.hu.min()), "max": int(volume.hu.max())}
    found["percentiles_hu"] = [
        int(value)
        for value in np.percentile(
            volume.hu[:: max(1, volume.hu.shape[0] // 32)], (1, 25, 50, 75, 99)
        )
    ]
    found["warnings"] = list(volume.warnings)
    try:
        found["warnings"] += check_hu(volume)
        found["predict_would"] = "segment it"
    except SegmateError as error:
        found["predict_would"] = f"refuse it: {error}"
    return found


def _describe_dicom(finding: Finding) -> dict[str, Any]:
    from segmate_cli import dicom

    taken = None
    try:
        choice = dicom.choose(finding)
        taken, would = choice.series, f"take {choice.note}"
    except AmbiguousSeriesError:
        would = "ask for --series: several CT series fit, and none is clearly the best"
    except SegmateError as error:
        would = f"refuse: {error}"
    in_series = len({file for each in finding.series for file in each.files})
    return {
        "path": str(finding.path),
        "kind": "dicom",
        "files": {
            "in_series": in_series,
            "not_dicom": len(finding.not_dicom),
            "skipped": len(finding.skipped),
        },
        "series": [_describe_series(each, each is taken) for each in finding.series],
        "not_dicom": list(finding.not_dicom),
        "skipped": [{"file": name, "reason": reason} for name, reason in finding.skipped],
        "predict_would": would,
    }


def _describe_series(series: SeriesInfo, taken: bool) -> dict[str, Any]:
    from segmate_cli import dicom

    score = dicom.score(series)
    return {
        "number": series.number,
        "taken": taken,
        "score": score.points,
        "reasons": list(score.reasons),
        "kind": series.kind,
        "series_uid": series.series_uid,
        "series_number": series.series_number,
        "modality": series.modality,
        "description": series.description,
        "acquisition": series.acquisition,
        "body_part": series.body_part,
        "kernel": series.kernel,
        "contrast": series.contrast,
        "image_type": list(series.image_type),
        "slices": len(series.slices),
        "rows": series.rows,
        "columns": series.columns,
        "orientation": series.plane,
        "directions_kji": series.directions and "".join(series.directions),
        "spacing_kji_mm": series.spacing_mm and [round(size, 4) for size in series.spacing_mm],
        "coverage_mm": series.coverage_mm and round(series.coverage_mm, 2),
        "thickness_mm": series.thickness_mm,
        "gaps": [
            f"{gap.missing} slices missing between {gap.after_mm:.2f} and {gap.before_mm:.2f} mm"
            for gap in series.gaps
        ],
        "doubles_mm": [round(at, 3) for at in series.doubles_mm],
        "tilt_deg": series.tilt_deg and round(series.tilt_deg, 3),
        "transfer_syntaxes": [
            f"{dicom.SYNTAX_NAMES.get(uid, 'unknown')} ({uid})" for uid in series.transfer_syntaxes
        ],
        "problems": list(series.problems),
        "irregularities": list(series.irregularities),
        _ONLY_JSON: list(series.files),
    }


def describe_geometry(geometry: Geometry) -> dict[str, Any]:
    """Shape, voxel size, directions and coverage, in (i, j, k) order as files name them."""
    sizes = geometry.spacing_mm[::-1]
    return {
        "shape_ijk": list(geometry.shape[::-1]),
        "spacing_ijk_mm": [round(size, 4) for size in sizes],
        "directions_ijk": "".join(geometry.directions[::-1]),
        "coverage_ijk_mm": [
            round(n * size, 1) for n, size in zip(geometry.shape[::-1], sizes, strict=True)
        ],
        "obliqueness_deg": round(geometry.obliqueness_deg, 2),
    }


def _lines(found: Any, depth: int) -> list[str]:
    pad = "  " * depth
    lines = []
    for name, value in found.items():
        if name == _ONLY_JSON:
            continue
        if isinstance(value, dict):
            lines += [f"{pad}{name}:", *_lines(value, depth + 1)]
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            for n, each in enumerate(value, 1):
                lines += [f"{pad}{name} {n}:", *_lines(each, depth + 1)]
        elif isinstance(value, list):
            lines.append(f"{pad}{name}: {', '.join(map(str, value)) or '-'}")
        else:
            lines.append(f"{pad}{name}: {'-' if value in (None, '') else value}")
    return lines
