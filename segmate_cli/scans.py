"""Scans and label maps by path, whatever the format: the door in; ``saving`` is the one out.

``find_scan`` looks at headers only; the ``Scan`` it gives then yields the voxels. ``load`` and
``load_labels`` are the short forms.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from segmate_cli import files, nifti, nifti_labels, sidecar
from segmate_cli.errors import GeometryError, InputError, UnreadableError, UsageError
from segmate_cli.geometry import Geometry
from segmate_cli.label_table import read_label_table
from segmate_cli.organs import Organ, foreign_organ
from segmate_cli.placement import placed_on
from segmate_cli.upright import on_slices
from segmate_cli.volume import DicomSource, LabelMap, Labels, NiftiSource, Scan, Source, Volume

if TYPE_CHECKING:
    from segmate_cli.dicom.files import Place


def find_scan(
    path: Place,
    *,
    series: str | None = None,
    assume_ras: bool = False,
    prefer: str | None = None,
) -> Scan:
    """Find the one scan that a path names.

    Args:
        path: A NIfTI file, a folder of DICOM files, one DICOM file, a .zip or .tar of them, or a
            list of files.
        series: Which one, for DICOM with several CT series; see ``dicom.choose``.
        assume_ras: See ``nifti.open_nifti``.
        prefer: SeriesInstanceUID to take unasked where there is such a series.

    Raises:
        InputError: There is none, or it cannot be used.
        AmbiguousSeriesError: There are several and none is clearly the best.
    """
    if isinstance(path, Path) and not files.exists(path):
        raise UnreadableError(f"{path}: there is no such file or folder; check the path.")
    if isinstance(path, Path) and nifti.is_nifti_name(path):
        file = nifti.open_nifti(path, assume_ras=assume_ras)
        return nifti.as_scan(file)
    from segmate_cli import dicom

    finding = dicom.find_series(path)
    if series is None and prefer in {one.series_uid for one in finding.series}:
        series = prefer
    choice = dicom.choose(finding, series)
    return dataclasses.replace(dicom.as_scan(finding, choice.series), notes=(choice.note,))


def load(
    path: str | Path,
    *,
    series: str | None = None,
    assume_ras: bool = False,
    prefer: str | None = None,
) -> Volume:
    """Read a CT scan; see ``find_scan`` for what a path may be and which errors are raised."""
    return find_scan(Path(path), series=series, assume_ras=assume_ras, prefer=prefer).read()


def load_labels(path: str | Path, table: str | Path | None = None) -> Labels:
    """Read a label map with its organ names.

    The names come from ``table`` (see ``label_table``), else from the file's header (segmate and
    TotalSegmentator write them there), else from the sidecar beside the file.

    Raises:
        UnreadableError: No readable label map.
        InputError: Nobody says what the values mean.
    """
    path = Path(path)
    if not files.exists(path):
        raise UnreadableError(f"{path}: there is no such file; check the path.")
    if is_dicom_name(path):
        from segmate_cli.dicom.seg_read import read_seg

        return read_seg(path, read_label_table(Path(table)) if table else None)
    file, names = _named_nifti(path, table)
    labels = nifti_labels.read_labels(file, names)
    unnamed = {value for value in _values(labels) if value not in names}
    full = {**names, **{value: foreign_organ(f"label_{value}", value) for value in unnamed}}
    return Labels(labels.values, labels.geometry, full, labels.source)


def open_labels(path: str | Path, table: str | Path | None = None) -> LabelMap:
    """A label map whose slices are read as they are asked for; errors as ``load_labels``.

    Values without a name are not among its organs. A DICOM SEG is read at once.
    """
    path = Path(path)
    if is_dicom_name(path) or not files.exists(path):
        return load_labels(path, table)
    file, names = _named_nifti(path, table)
    return nifti_labels.LabelFile(file, names)


def _named_nifti(path: Path, table: str | Path | None) -> tuple[nifti.NiftiFile, dict[int, Organ]]:
    """A label map's header and what its values mean."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give its label maps, as in {path}/*/labels.nii.gz.")
    if not nifti.is_nifti_name(path):
        raise UsageError(f"{path}: label maps are .nii or .nii.gz files, or DICOM SEG (.dcm).")
    file = open_header(path)
    names = read_label_table(Path(table)) if table else nifti_labels.label_names(file)
    names = names or sidecar.label_names(path)
    if not names:
        raise InputError(
            f"{path}: neither its header nor a sidecar {sidecar.path_for(path).name} says what "
            "the values mean; give a table with --labels table.csv or table.json."
        )
    return file, names


def open_header(path: Path) -> nifti.NiftiFile:
    """A NIfTI header; a label map without orientation has the one that its sidecar tells of.

    Raises:
        InputError: A file that cannot be read.
    """
    try:
        return nifti.open_nifti(path)
    except GeometryError:
        if not sidecar.was_taken_for_ras(path):
            raise
        return nifti.open_nifti(path, assume_ras=True)


def warnings_of(path: Path, table: str | Path | None = None) -> tuple[str, ...]:
    """What is odd about a label map, one sentence each; arguments and errors as ``load_labels``."""
    if not nifti.is_nifti_name(path) or not files.exists(path):
        return ()
    file = open_header(path)
    if table or nifti_labels.label_names(file) or not sidecar.label_names(path):
        return file.warnings
    if sidecar.content_of(path) is not None:
        return file.warnings
    told = sidecar.path_for(path).name
    return (
        *file.warnings,
        f"Its values are named by {told}, which was written beside another file of that name; if "
        "they mean something else here, give --labels.",
    )


def table_if_unnamed(path: Path, table: str | Path | None) -> str | Path | None:
    """The table, where a label map does not say itself what its values mean; else None.

    Raises:
        InputError: A file that cannot be read.
    """
    if table is None or not nifti.is_nifti_name(path) or not files.exists(path):
        return None
    says = nifti_labels.label_names(open_header(path)) or sidecar.label_names(path)
    return None if says else table


def load_with_ct(
    path: Path,
    table: str | Path | None = None,
    ct: str | Path | None = None,
    series: str | None = None,
) -> tuple[Labels, Volume | None]:
    """A label map, on its scan's own slices as far as they are known, and its scan if asked for.

    Of DICOM with several series the scan is the one that made the label map, where known.
    """
    labels = load_labels(path, table)
    known, scan = _slices_and_ct(labels, ct, series)
    for slices in known:
        labels = on_slices(labels, slices)
    return labels, scan.read() if scan else None


def open_with_ct(
    path: Path,
    table: str | Path | None = None,
    ct: str | Path | Scan | None = None,
    series: str | None = None,
) -> tuple[LabelMap, Scan | None]:
    """As ``load_with_ct``, on the scan's grid, slice by slice as far as that is possible.

    Labels of uneven slices, or stored in another order than the scan, are read at once. A scan that
    has been found before is taken as it is.

    Raises:
        GeometryError: The label map's voxels are not the scan's.
    """
    labels = open_labels(path, table)
    known, scan = _slices_and_ct(labels, ct, series)
    even = all(slices is None or slices.places_mm is None for slices in known)
    if even and (scan is None or labels.geometry.same_as(scan.geometry)):
        return labels, scan
    loaded = load_labels(path, table)
    for slices in known:
        loaded = on_slices(loaded, slices)
    if scan is not None:
        loaded = placed_on(loaded, scan.geometry, lacks_slices=is_dicom_name(path))
    return loaded, scan


def _slices_and_ct(
    labels: LabelMap, ct: str | Path | Scan | None, series: str | None
) -> tuple[tuple[Geometry | None, Geometry | None], Scan | None]:
    """Where a label map's slices lie, as its sidecar and its scan know it, and the scan."""
    source: Source | None = labels.source
    origin = None
    if isinstance(source, NiftiSource):
        origin = sidecar.origin_of(source.path)
        source = origin.source if origin else None
    named = source.series_uid if isinstance(source, DicomSource) else None
    if isinstance(ct, Scan):
        scan: Scan | None = ct
    else:
        assume_ras = isinstance(labels.source, NiftiSource) and not labels.source.is_oriented
        find = partial(find_scan, series=series, prefer=named, assume_ras=assume_ras)
        scan = find(Path(ct)) if ct else None
    return (origin.slices if origin else None, scan.geometry if scan else None), scan


def is_dicom_name(path: Path) -> bool:
    """Whether the name ends in .dcm, in any case."""
    return path.suffix.lower() == ".dcm"


def _values(labels: Labels) -> set[int]:
    import numpy as np

    found: set[int] = set()
    for plane in labels.values:
        found.update(int(value) for value in np.flatnonzero(np.bincount(plane.reshape(-1))))
    return found - {0}
