"""Label maps into files, whatever the format, and what must hold before the work for them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segmate_cli import files, memory, nifti, nifti_labels, sidecar
from segmate_cli.errors import EngineMissingError, MemoryCapError, UsageError
from segmate_cli.scans import is_dicom_name
from segmate_cli.upright import evened
from segmate_cli.volume import LabelMap, Scan

if TYPE_CHECKING:
    from segmate_cli.dicom.reference import Reference, SegOptions

OutputKind = Literal["nifti", "seg", "rtstruct"]

# What an RTSTRUCT is called where people meet one; other .dcm files are SEG.
_RTSTRUCT_NAMES = ("rtstruct", "rtss")
_MODULES = {"seg": "highdicom", "rtstruct": "contourpy"}
_TITLES = {"seg": "DICOM SEG and SR", "rtstruct": "RTSTRUCT"}
# The labels, packed frames and their copies while writing: 3.2 measured for 300 slices, 11 organs.
_SEG_BYTES_A_VOXEL = 4


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
        digest = nifti_labels.write_labels(labels, path)
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
