"""The JSON file beside a label map: what it is, what it was made of, and by what.

Nothing in it names a patient: of DICOM input it holds UIDs, of the path only what the user typed.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segmate_cli import __version__, files, memory
from segmate_cli.errors import GeometryError, InputError
from segmate_cli.geometry import Geometry
from segmate_cli.label_table import read_label_table
from segmate_cli.organs import CODE_SCHEME, LATERALITY_CODES, Organ
from segmate_cli.upright import EvenGrid, EvenLabels
from segmate_cli.volume import DicomSource, LabelMap, NiftiSource, Source

if TYPE_CHECKING:
    from segmate_cli.doubt.verdict import Earlier

SCHEMA = "segmate-labels"
SCHEMA_VERSION = 1
_PLACES = "slice_places_lps_mm"
_ASSUMED = "assumed_orientation"
_PACKAGES = (
    *("numpy", "nibabel", "pydicom", "highdicom"),
    *("onnxruntime", "onnxruntime-gpu", "torch"),
)


def path_for(labels_path: Path) -> Path:
    """``labels.json`` for ``labels.nii.gz``."""
    name = labels_path.name
    for suffix in (".nii.gz", ".nii"):
        if name.lower().endswith(suffix):
            return labels_path.with_name(name[: -len(suffix)] + ".json")
    return labels_path.with_suffix(".json")


def itksnap_path(labels_path: Path) -> Path:
    """``labels.itksnap.txt`` for ``labels.nii.gz``."""
    return path_for(labels_path).with_suffix(".itksnap.txt")


def write(
    labels: LabelMap, labels_path: Path, voxels_sha256: str, seconds: dict[str, float]
) -> None:
    """Write the sidecar of a label map that has just been written.

    Args:
        labels: What was written; where that is an even grid over uneven slices, the sidecar tells
            of both.
        labels_path: Where.
        voxels_sha256: Of the label map's voxels: little-endian, in (k, j, i) order.
        seconds: Time by stage, added to what ``labels.run`` says.

    Raises:
        OutputError: It cannot be written.
    """
    run = dict(labels.run or {})
    pixels_sha256 = run.pop("pixels_sha256", None)
    run["seconds"] = {
        **run.get("seconds", {}),
        **{stage: round(value, 4) for stage, value in seconds.items()},
    }
    grid = labels.grid if isinstance(labels, EvenLabels) else None
    scanned = grid.upright.slices if grid else labels.geometry
    content = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "segmate_version": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "labels": [label_row(value, organ) for value, organ in sorted(labels.organs.items())],
        "input": _describe(labels.source, scanned, pixels_sha256, run.get("options") or {}),
        "output": {
            "file": labels_path.name,
            "file_sha256": files.sha256_of_file(labels_path),
            "voxels_sha256": voxels_sha256,
            **({} if grid is None else _describe_grid(grid)),
        },
        **run,
        "peak_memory_bytes": memory.peak_bytes(),
        "packages": package_versions(),
        "python": sys.version.split()[0],
        "platform": _platform(),
    }
    files.write_text(path_for(labels_path), json.dumps(content, indent=2) + "\n")


def _platform() -> str:
    """As ``platform.platform``, which starts ``uname -p`` for a word that it then leaves out.

    For a moment that process holds as much memory again as this one.
    """
    system = platform.uname()
    libc = "".join(platform.libc_ver())
    return "-".join([system.system, system.release, system.machine, *(["with", libc] * bool(libc))])


def label_names(labels_path: Path) -> dict[int, Organ]:
    """Organs by value from the sidecar of a label map, or {} where there is none."""
    path = path_for(labels_path)
    try:
        # Other tools write a JSON file of that name, too, such as BIDS's of scanner settings.
        if json.loads(path.read_text(encoding="utf-8")).get("schema") != SCHEMA:
            return {}
        return read_label_table(path)
    except (OSError, ValueError, AttributeError, RecursionError, InputError):
        return {}


@dataclass(frozen=True, slots=True)
class Origin:
    """What a sidecar says about the making of its label map.

    Attributes:
        model: Name, version and weights_sha256.
        source: The DICOM series that was segmented, without its files; None for NIfTI.
        slices: Where the scan's slices lie, for a label map on an even grid over uneven ones.
    """

    model: dict[str, str]
    source: DicomSource | None
    slices: Geometry | None = None


def origin_of(labels_path: Path) -> Origin | None:
    """What the sidecar of a label map says; None without one, or where the file has changed."""
    content = content_of(labels_path)
    if content is None:
        return None
    try:
        model = {key: str(content["model"][key]) for key in ("name", "version", "weights_sha256")}
        return Origin(model, _series_in(content["input"]), _slices_in(content["input"]))
    except (ValueError, LookupError, TypeError, GeometryError):
        return None


def content_of(labels_path: Path) -> dict[str, Any] | None:
    """All that the sidecar of a label map says; None as for ``origin_of``."""
    try:
        content: dict[str, Any] = json.loads(path_for(labels_path).read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            return None
        if content["output"]["file_sha256"] != files.sha256_of_file(labels_path):
            return None
        return content if _has_its_parts(content) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _has_its_parts(content: dict[str, Any]) -> bool:
    """Whether what should be an object is one, so that those who read on need not ask."""
    parts = [content.get(name, {}) for name in ("input", "model", "options", "doubt")]
    if not all(isinstance(part, dict) for part in parts):
        return False
    return isinstance(parts[0].get("dicom", {}), dict)


def _slices_in(given: dict[str, Any]) -> Geometry | None:
    if _PLACES not in given:
        return None
    k, j, i = map(int, given["shape_kji"])
    return Geometry(np.array(given["affine_kji_to_lps_mm"]), (k, j, i), np.array(given[_PLACES]))


def was_taken_for_ras(labels_path: Path) -> bool:
    """Whether a label map lies on a scan without orientation that was taken for RAS, as asked."""
    told = content_of(labels_path) or {}
    return bool(told.get("input", {}).get(_ASSUMED) == "RAS")


def earlier_of(labels_path: Path) -> Earlier | None:
    """What the gates said of the scan; None without a sidecar, or where the file has changed."""
    from segmate_cli.doubt.record import earlier_in

    try:
        content = json.loads(path_for(labels_path).read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            return None
        record = content["doubt"]
        if content["output"]["file_sha256"] != files.sha256_of_file(labels_path):
            return None
        return earlier_in(record)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _series_in(given: dict[str, Any]) -> DicomSource | None:
    told = given.get("dicom")
    if told is None:
        return None
    return DicomSource(
        path=Path(given["path"]),
        study_uid=_uid(told["study_uid"]) or None,
        series_uid=_uid(told["series_uid"]),
        frame_of_reference_uid=_uid(told["frame_of_reference_uid"]) or None,
        sop_class_uid=_uid(told["sop_class_uid"]),
        sop_instance_uids=tuple(map(_uid, told["sop_instance_uids"])),
        files=(),
    )


def _uid(told: Any) -> str:
    """A UID, "" where there is none; TypeError where somebody wrote something else there."""
    if told is not None and not isinstance(told, str):
        raise TypeError(f"{told!r} is no UID")
    return told or ""


def label_row(value: int, organ: Organ) -> dict[str, Any]:
    """One entry of ``labels``: value, organ, title and code (None for a foreign label)."""
    code: dict[str, Any] | None = None
    if organ.code is not None:
        code = {"scheme": CODE_SCHEME, "value": organ.code, "meaning": organ.meaning}
        if organ.side is not None:
            side_code, side = LATERALITY_CODES[organ.side]
            code["modifier"] = {"scheme": CODE_SCHEME, "value": side_code, "meaning": side}
    return {"value": value, "organ": organ.key, "title": organ.title, "code": code}


def _describe(
    source: Source | None, geometry: Geometry, digest: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "path": str(source.path) if source else None,
        "kind": type(source).__name__.removesuffix("Source").lower() if source else None,
        "shape_kji": list(geometry.shape),
        "spacing_kji_mm": [round(size, 6) for size in geometry.spacing_mm],
        "affine_kji_to_lps_mm": geometry.affine.tolist(),
        "pixels_sha256": digest,
    }
    if isinstance(source, NiftiSource) and not source.is_oriented:
        described[_ASSUMED] = "RAS"
    if geometry.places_mm is not None:
        described[_PLACES] = geometry.places_mm.round(6).tolist()
        described["slice_extents_mm"] = geometry.slice_extents_mm.round(6).tolist()
    if isinstance(source, DicomSource):
        described["dicom"] = {
            "study_uid": source.study_uid,
            "series_uid": source.series_uid,
            "frame_of_reference_uid": source.frame_of_reference_uid,
            "sop_class_uid": source.sop_class_uid,
            "sop_instance_uids": list(source.sop_instance_uids),
            "scanner": source.scanner.told(keep_month=bool(options.get("keep_month"))),
        }
    return described


def _describe_grid(grid: EvenGrid) -> dict[str, Any]:
    """The grid of a file that lies over uneven slices."""
    return {
        "shape_kji": list(grid.geometry.shape),
        "spacing_kji_mm": [round(size, 6) for size in grid.geometry.spacing_mm],
        "affine_kji_to_lps_mm": grid.geometry.affine.tolist(),
        "slice_of_plane": list(grid.slices),
    }


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that a result may depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
