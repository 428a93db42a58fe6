"""Label maps, DICOM SEG and RTSTRUCT by path, measured and judged by the gates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segmate_cli import files, scans, sidecar
from segmate_cli.doubt.rules import RULES, Rule
from segmate_cli.doubt.verdict import Earlier
from segmate_cli.label_table import read_label_table
from segmate_cli.measurement import Measured, OrganStats, examine, examine_slices
from segmate_cli.sheets import Sheets
from segmate_cli.volume import LabelMap, Scan


def measure_path(
    path: Path,
    *,
    table: str | Path | None = None,
    ct: str | Path | None = None,
    series: str | None = None,
    organs: Sequence[str] | None = None,
) -> tuple[OrganStats, ...]:
    """Measure the organs in a file; arguments and errors as ``examine_path``."""
    return examine_path(path, table=table, ct=ct, series=series, organs=organs).stats


def examine_path(
    path: Path,
    *,
    table: str | Path | None = None,
    ct: str | Path | None = None,
    series: str | None = None,
    organs: Sequence[str] | None = None,
    rules: Sequence[Rule] | None = None,
) -> Measured:
    """Measure the organs of a label map, DICOM SEG or RTSTRUCT in a file, and apply the gates.

    Without the scan, what its gates said when the label map was made is taken from the sidecar.

    Args:
        path: See ``scans.load_labels``; or a DICOM RTSTRUCT.
        table: What the values, segment or ROI numbers mean; see ``scans.load_labels``.
        ct: The scan that was segmented, for HU.
        series: Which series of it; by default the one that a DICOM object names.
        organs: Names or aliases; by default all.
        rules: The gates; None for the built-in ones, or for none where the sidecar says that none
            held for the model.

    Raises:
        InputError: A file that cannot be read, a CT that does not fit.
        UnknownOrganError: An organ that the file does not have.
    """
    if is_dicom(path):
        sheets, scan = open_structures(path, table, ct, series)
        return examine_slices(sheets, scan, organs, *gates_of(path, rules))
    labels, volume = scans.load_with_ct(path, table, ct, series)
    return examine(labels, volume, organs, *gates_of(path, rules))


def gates_of(path: Path, rules: Sequence[Rule] | None) -> tuple[Sequence[Rule], Earlier | None]:
    """The gates for a label map, and what its sidecar says of an earlier look at its scan."""
    earlier = sidecar.earlier_of(path)
    if rules is None:
        rules = () if earlier and not earlier.gates else RULES
    return rules, earlier


def is_dicom(path: Path) -> bool:
    """Whether a path is that of a DICOM object's file, by its name."""
    return scans.is_dicom_name(path) and files.exists(path)


def open_to_look(
    path: Path,
    table: str | Path | None = None,
    ct: str | Path | Scan | None = None,
    series: str | None = None,
) -> tuple[LabelMap, Scan | None]:
    """As ``scans.open_with_ct``, DICOM structures that overlap included."""
    if is_dicom(path):
        return open_structures(path, table, ct, series)
    return scans.open_with_ct(path, table, ct, series)


def open_structures(
    path: Path,
    table: str | Path | None = None,
    ct: str | Path | Scan | None = None,
    series: str | None = None,
) -> tuple[Sheets, Scan | None]:
    """A DICOM SEG or RTSTRUCT, on its scan's own grid where the scan is given.

    Raises:
        UnreadableError: It is neither, or damaged.
        GeometryError: The scan lies elsewhere, or without it nobody can tell how the slices lie.
    """
    from segmate_cli.dicom import rtstruct_read, seg_read

    names = read_label_table(Path(table)) if table else None
    if rtstruct_read.is_rtstruct(path):
        from segmate_cli.dicom.rtstruct_sheets import sheets_of

        structures = rtstruct_read.read_rtstruct(path, names)
        scan = _scan_of(ct, series, structures.series_uid)
        return sheets_of(structures, scan.geometry if scan else None), scan
    seg = seg_read.open_seg(path, names)
    scan = _scan_of(ct, series, seg.source.series_uid if seg.source else None)
    return seg.sheets(scan.geometry if scan else None), scan


def _scan_of(ct: str | Path | Scan | None, series: str | None, named: str | None) -> Scan | None:
    """A scan; of several series the one that an object names."""
    if ct is None or isinstance(ct, Scan):
        return ct
    return scans.find_scan(Path(ct), series=series, prefer=named)
