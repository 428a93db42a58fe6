"""From the headers of all files to the series that they form. Pure: nothing here opens a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from segmate_cli.dicom.header import Header
from segmate_cli.dicom.stack import (
    Gap,
    acquisitions,
    irregularities,
    mixed,
    no_volume,
    plane_of,
    stack_of,
    step_mm,
    steps_of,
    tilt_of,
    unplaced,
    volume_geometry,
)
from segmate_cli.errors import GeometryError
from segmate_cli.geometry import Geometry

IMAGE, DERIVED, MULTI_FRAME = "image", "derived image", "multi-frame image"
LOCALIZER, SECONDARY, PICTURE = "localizer", "secondary capture", "colour picture"
SINGLE, NO_IMAGE, DOSE_REPORT = "single slice", "no image", "dose report"
ONE_PLACE = "series of images at one place"

_SECONDARY_CLASS = "1.2.840.10008.5.1.4.1.1.7"
_DOSE_CLASSES = {"1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.88.76"}


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """One series, or the part of one that can form a volume; nothing in it names a patient.

    Attributes:
        number: Its row in the table of ``segmate inspect``, from 1.
        kind: What it is: "image", "localizer", "secondary capture", "other modality" ...
        spacing_mm: (k, j, i) distances between voxel centres, where positions tell.
        plane: "axial", "coronal", "sagittal", "oblique", or "" where positions do not tell.
        directions: Letters towards which (k, j, i) grow, as in ``segmate_cli.geometry``.
        positions_mm: Distinct positions of the slices along the normal, ascending.
        coverage_mm: From the first slice's outer face to the last one's.
        doubles_mm: Positions that hold more than one slice.
        tilt_deg: Angle between the stack's direction and the normal; None where unknown.
        image_type: ImageType's values.
        transfer_syntaxes: UIDs.
        slices: Headers, sorted along the normal, k ascending.
        problems: Why ``predict`` would refuse it, one phrase each; empty when it is fit.
        acquisition: What tells it apart from others of the same series at the same places; else "".
        irregularities: Tilt, gaps and uneven steps, which are modelled, one phrase each.
    """

    number: int
    kind: str
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    sop_class_uid: str
    modality: str
    description: str
    series_number: int | None
    kernel: str
    body_part: str
    contrast: bool
    image_type: tuple[str, ...]
    rows: int
    columns: int
    spacing_mm: tuple[float, float, float] | None
    plane: str
    directions: tuple[str, str, str] | None
    positions_mm: tuple[float, ...]
    coverage_mm: float | None
    thickness_mm: float | None
    gaps: tuple[Gap, ...]
    doubles_mm: tuple[float, ...]
    tilt_deg: float | None
    transfer_syntaxes: tuple[str, ...]
    slices: tuple[Header, ...]
    problems: tuple[str, ...]
    irregularities: tuple[str, ...] = ()
    acquisition: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Name of each slice's file, k ascending."""
        return tuple(header.file for header in self.slices)

    @property
    def title(self) -> str:
        """Its description and, of several acquisitions in one series, which; "" for neither."""
        return ", ".join(filter(None, (self.description, self.acquisition)))

    @property
    def geometry(self) -> Geometry:
        """Where its voxels lie; for a series without problems.

        Raises:
            GeometryError: the numbers do not describe a volume.
        """
        return volume_geometry(self.slices)


def group_series(headers: Sequence[Header]) -> tuple[SeriesInfo, ...]:
    """Headers as series; localizers, screenshots and reports apart from the slices beside them."""
    groups: dict[tuple[str, str], list[Header]] = {}
    for header in headers:
        groups.setdefault((_series_key(header), _role(header)), []).append(header)
    found = [one for (_, kind), group in groups.items() for one in _stacks_of(kind, group)]
    found.sort(
        key=lambda one: (
            one.modality != "CT",
            one.series_number or 0,
            one.series_uid,
            one.acquisition,
        )
    )
    return tuple(
        dataclasses.replace(one, number=number) for number, one in enumerate(found, start=1)
    )


def _series_key(header: Header) -> str:
    """SeriesInstanceUID; what else tells series apart where anonymising took it away."""
    if header.series_uid:
        return header.series_uid
    told = (header.study_uid, header.frame_of_reference_uid, header.series_number)
    return repr((*told, header.description, header.kernel, header.rows, header.columns))


def _role(header: Header) -> str:
    """What a single file is, by its modality, class and image type."""
    if header.sop_class_uid in _DOSE_CLASSES:
        return DOSE_REPORT
    if header.modality != "CT":
        return f"other modality ({header.modality or 'not named'})"
    if header.rows < 1 or header.columns < 1:
        return NO_IMAGE
    if header.sop_class_uid.startswith(_SECONDARY_CLASS):
        return SECONDARY
    if header.samples != 1:
        return PICTURE
    if "LOCALIZER" in header.image_type:
        return LOCALIZER
    if header.frames > 1 and header.frame is None:
        return MULTI_FRAME
    if header.image_type[:2] == ("DERIVED", "SECONDARY"):
        return DERIVED
    return IMAGE


def _stacks_of(kind: str, headers: list[Header]) -> list[SeriesInfo]:
    """A series, or each of the acquisitions in it that lie at the same places."""
    whole = _series_of(kind, headers)
    if not whole.doubles_mm or kind not in (IMAGE, DERIVED) or len(whole.positions_mm) < 2:
        return [whole]
    parts = acquisitions(whole.slices) if not mixed(headers) else ()
    told = [(name, _series_of(kind, list(part))) for name, part in parts]
    return [dataclasses.replace(one, acquisition=name) for name, one in told] or [whole]


def _series_of(kind: str, headers: list[Header]) -> SeriesInfo:
    headers = sorted(headers, key=lambda header: (header.file, header.frame or 0))
    problems = mixed(headers) if kind in (IMAGE, DERIVED, LOCALIZER) else ()
    stack = None if unplaced(headers) else stack_of(headers)
    headers = list(stack.slices) if stack else headers
    positions, gaps, doubles = steps_of(stack) if stack else ((), (), ())
    kind = _kind_of_stack(kind, len(headers), len(positions))
    irregular: tuple[str, ...] = ()
    if stack and not problems and kind in (IMAGE, DERIVED):
        problems = no_volume(stack, positions, doubles)
        irregular = () if problems else irregularities(stack, gaps)
    geometry = None
    if stack and not problems and len(positions) > 1:
        try:
            geometry = volume_geometry(headers)
        except GeometryError as error:
            problems = (str(error).rstrip("."),)
    first = headers[0]
    step = step_mm(positions)
    return SeriesInfo(
        number=0,
        kind=kind,
        series_uid=first.series_uid,
        study_uid=first.study_uid,
        frame_of_reference_uid=first.frame_of_reference_uid,
        sop_class_uid=first.sop_class_uid,
        modality=first.modality,
        description=first.description,
        series_number=first.series_number,
        kernel=first.kernel,
        body_part=first.body_part,
        contrast=any(header.contrast for header in headers),
        image_type=first.image_type,
        rows=first.rows,
        columns=first.columns,
        spacing_mm=_spacing(first, step),
        plane=plane_of(stack) if stack else "",
        directions=geometry.directions if geometry else None,
        positions_mm=positions,
        coverage_mm=positions[-1] - positions[0] + step if step else None,
        thickness_mm=first.thickness_mm,
        gaps=gaps,
        doubles_mm=doubles,
        tilt_deg=tilt_of(stack) if stack else None,
        transfer_syntaxes=tuple(sorted({header.syntax_uid for header in headers})),
        slices=tuple(headers),
        problems=problems,
        irregularities=irregular,
    )


def _kind_of_stack(kind: str, slices: int, places: int) -> str:
    """A kind, but for images that are too few, or at too few places, to be a scan."""
    if kind not in (IMAGE, DERIVED):
        return kind
    if slices == 1:
        return SINGLE
    return ONE_PLACE if places == 1 else kind


def _spacing(first: Header, step: float | None) -> tuple[float, float, float] | None:
    if step is None or first.pixel_spacing_mm is None:
        return None
    return step, first.pixel_spacing_mm[0], first.pixel_spacing_mm[1]
