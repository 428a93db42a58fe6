"""Scans and label maps by path, whatever the format: the doors in and out.

``find_scan`` looks at headers only; the ``Scan`` it gives then yields the voxels. ``load``,
``load_labels`` and ``save`` are the short forms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segmate_cli import files, memory, nifti, sidecar
from segmate_cli.errors import (
    EngineMissingError,
    InputError,
    MemoryCapError,
    UnreadableError,
    UsageError,
)
from segmate_cli.geometry import Geometry
from segmate_cli.label_table import read_label_table
from segmate_cli.organs import Organ, foreign_organ
from segmate_cli.placement import placed_on
from segmate_cli.upright import evened, on_slices
from segmate_cli.volume import DicomSource, LabelMap, Labels, NiftiSource, Scan, Source, Volume

if TYPE_CHECKING:
    from segmate_cli.dicom.files import Place
    from segmate_cli.dicom.reference import Reference, SegOptions

OutputKind = Literal["nifti", "seg", "rtstruct"]

# What an RTSTRUCT is called where people meet one; other .dcm files are SEG.
_RTSTRUCT_NAMES = ("rtstruct", "rtss")
_MODULES = {"seg": "highdicom", "rtstruct": "contourpy"}
_TITLES = {"seg": "DICOM SEG and SR", "rtstruct": "RTSTRUCT"}
# The labels, packed frames and their copies while writing: 3.2 measured for 300 slices, 11 organs.
_SEG_BYTES_A_VOXEL = 4


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
    labels = nifti.read_labels(file, names)
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
    return nifti.LabelFile(file, names)


def _named_nifti(path: Path, table: str | Path | None) -> tuple[nifti.NiftiFile, dict[int, Organ]]:
    """A label map's header and what its values mean."""
    if not nifti.is_nifti_name(path):
        raise UsageError(f"{path}: label maps are .nii or .nii.gz files, or DICOM SEG (.dcm).")
    file = nifti.open_nifti(path)
    names = read_label_table(Path(table)) if table else nifti.label_names(file)
    names = names or sidecar.label_names(path)
    if not names:
        raise InputError(
            f"{path}: neither its header nor a sidecar {sidecar.path_for(path).name} says what "
            "the values mean; give a table with --labels table.csv or table.json."
        )
    return file, names


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
        scan = find_scan(Path(ct), series=series, prefer=named) if ct else None
    return (origin.slices if origin else None, scan.geometry if scan else None), scan


def save(
    labels: LabelMap,
    path: str | Path,
    *,
    overwrite: bool = False,
    seconds: dict[str, float] | None = None,
    seg: SegOptions | None = None,
    with_sidecar: bool = True,
    kind: OutputKind | None = None,
) -> Path:
    """Write a label map and, beside it, its sidecar (``labels.nii.gz``, ``labels.json``).

    Args:
        labels: From ``predict`` or ``segment``.
        path: A .nii or .nii.gz file, or .dcm for a DICOM SEG or RTSTRUCT (needs [dicom]).
        overwrite: Replace what is there.
        seconds: Time spent outside ``predict``, by stage; writing is added.
        seg: How a DICOM SEG or RTSTRUCT is written.
        with_sidecar: Whether to write the sidecar.
        kind: What to write; by default as ``kind_of`` tells by the name.

    Returns:
        The label map's path.

    Raises:
        OutputError: It cannot be written, or exists.
        UsageError: The suffix is not one that segmate writes, or a SEG lacks its DICOM series.
        InputError: The DICOM series does not hold the label map's voxels.
        NothingFoundError: A SEG without a single voxel, which is not written.
    """
    path = Path(path)
    kind = kind_of(path, kind)
    check_label_output(path, overwrite=overwrite, with_sidecar=with_sidecar, kind=kind)
    start = time.perf_counter()
    if kind == "nifti":
        labels = evened(labels)
        digest = nifti.write_labels(labels, path)
    else:
        digest = _save_dicom(labels, path, kind, seg)
    spent = {**(seconds or {}), "write": time.perf_counter() - start}
    if with_sidecar:
        _write_sidecar(labels, path, digest, spent)
    return path


def _save_dicom(labels: LabelMap, path: Path, kind: OutputKind, seg: SegOptions | None) -> str:
    check_writer(kind)
    from segmate_cli.dicom import reference as dicom_reference

    seg = seg or dicom_reference.SegOptions()
    reference = dicom_reference.reference_for(labels.geometry, labels.source, seg)
    if kind == "rtstruct":
        from segmate_cli.dicom.rtstruct import write_rtstruct

        return write_rtstruct(labels, path, reference, seg.uid_root)
    from segmate_cli.dicom.seg import write_seg

    return write_seg(labels, path, reference, seg)


def _write_sidecar(labels: LabelMap, path: Path, digest: str, seconds: dict[str, float]) -> None:
    """Write it, or take the label map back: one without the other would tell half."""
    with contextlib.ExitStack() as otherwise:
        otherwise.callback(path.unlink, missing_ok=True)
        sidecar.write(labels, path, digest, seconds)
        otherwise.pop_all()


def save_all(
    labels: LabelMap,
    paths: Sequence[Path],
    overwrite: bool,
    *,
    seconds: dict[str, float],
    seg: SegOptions | None,
    kind: OutputKind | None = None,
) -> Iterator[Path]:
    """Write a label map to several files and yield each once it is there; see ``save``.

    NIfTI comes first: it can say that nothing was found, which DICOM objects cannot.
    """
    for path in sorted(paths, key=lambda each: kind_of(each, kind) != "nifti"):
        own = has_sidecar(path, paths, kind)
        yield save(
            labels, path, overwrite=overwrite, seconds=seconds, seg=seg, with_sidecar=own, kind=kind
        )


def kind_of(path: Path, given: OutputKind | None = None) -> OutputKind:
    """What a label map of this name is: as given, else by its suffix.

    A .dcm file is an RTSTRUCT where its name contains "rtstruct" or "rtss", and a SEG otherwise.

    Raises:
        UsageError: The suffix is none of a label map's.
    """
    if given is not None:
        return given
    if nifti.is_nifti_name(path):
        return "nifti"
    if not is_dicom_name(path):
        raise UsageError(
            f"{path}: unknown suffix; label maps are written as .nii, .nii.gz or .dcm (DICOM SEG; "
            "RTSTRUCT where the name contains rtstruct or rtss)."
        )
    named = any(word in path.name.lower() for word in _RTSTRUCT_NAMES)
    return "rtstruct" if named else "seg"


def is_dicom_name(path: Path) -> bool:
    """Whether the name ends in .dcm, in any case."""
    return path.suffix.lower() == ".dcm"


def check_writer(kind: OutputKind) -> None:
    """Refuse to go on without what writes DICOM objects of a kind.

    Raises:
        EngineMissingError: It is not installed.
    """
    import importlib.util

    module = _MODULES.get(kind)
    if module is not None and importlib.util.find_spec(module) is None:
        raise EngineMissingError(
            f"{_TITLES[kind]} need {module}; pip install 'segmate-cli[dicom]'."
        )


def seg_reference(scan: Scan, seg: SegOptions, memory_cap_bytes: int | None = None) -> Reference:
    """The DICOM slices that a scan's SEG or RTSTRUCT will lie on; to know before the network runs.

    Raises:
        UsageError, InputError: As ``save``.
        MemoryCapError: They cannot be written under the cap.
    """
    from segmate_cli.dicom import reference as dicom_reference
    from segmate_cli.dicom.same_voxels import check_same_voxels

    need = memory.resident_bytes() + _SEG_BYTES_A_VOXEL * scan.geometry.voxels
    if memory_cap_bytes is not None and need > memory_cap_bytes:
        raise MemoryCapError(
            f"a memory cap of {memory.human(memory_cap_bytes)} is too small to write this scan's "
            f"DICOM SEG: at least {memory.human(need)} is needed; .nii.gz takes less."
        )
    reference = dicom_reference.reference_for(scan.geometry, scan.source, seg)
    check_same_voxels(scan, reference)
    return reference


def check_label_outputs(
    paths: Sequence[Path],
    *,
    overwrite: bool,
    inputs: tuple[Path, ...] = (),
    kind: OutputKind | None = None,
) -> None:
    """Refuse the outputs of one run that could not all be written; see ``save``.

    Where there is a NIfTI file among them, DICOM files get no sidecar of their own.
    """
    if kind is not None and len(paths) > 1:
        raise UsageError("--format says what one output is; of several, the names say it.")
    taken: set[Path] = set()
    for path in paths:
        own = has_sidecar(path, paths, kind)
        check_label_output(path, overwrite=overwrite, inputs=inputs, with_sidecar=own, kind=kind)
        written = {path.absolute(), *([sidecar.path_for(path).absolute()] if own else [])}
        if written & taken:
            raise UsageError(f"{path}: two outputs, or their sidecars, have the same name.")
        taken |= written


def has_sidecar(path: Path, outputs: Sequence[Path], kind: OutputKind | None = None) -> bool:
    """Whether an output among those of a run gets a sidecar: each NIfTI, or else each DICOM."""
    own = kind_of(path, kind) == "nifti"
    return own or all(kind_of(each, kind) != "nifti" for each in outputs)


def check_label_output(
    path: Path,
    *,
    overwrite: bool,
    inputs: tuple[Path, ...] = (),
    with_sidecar: bool = True,
    kind: OutputKind | None = None,
) -> None:
    """Refuse an output name that ``save`` could not use; see there."""
    if (kind_of(path, kind) == "nifti") != nifti.is_nifti_name(path):
        raise UsageError(f"{path}: names that end in .nii or .nii.gz are for NIfTI, and no others.")
    if with_sidecar and sidecar.path_for(path) == path:
        raise UsageError(f"{path}: its sidecar would have the same name; give another.")
    files.check_output(path, overwrite=overwrite, inputs=inputs)
    if with_sidecar:
        files.check_output(sidecar.path_for(path), overwrite=overwrite, inputs=inputs)


def _values(labels: Labels) -> set[int]:
    import numpy as np

    found: set[int] = set()
    for plane in labels.values:
        found.update(int(value) for value in np.flatnonzero(np.bincount(plane.reshape(-1))))
    return found - {0}
