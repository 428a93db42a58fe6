"""The sidecar beside a label map as a schema: what each field means, and what it may hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from segmate_cli.doubt.words import Severity, StatusKind

_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Row = Annotated[list[float], Field(min_length=4, max_length=4)]
_Affine = Annotated[list[_Row], Field(min_length=4, max_length=4)]
_Three = Annotated[list[float], Field(min_length=3, max_length=3)]
_Shape = Annotated[list[int], Field(min_length=3, max_length=3)]
_Millilitres = Annotated[float, Field(ge=0)] | None
_Share = Annotated[float, Field(ge=0, le=1)] | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Side(_Part):
    """A code of the DICOM coding scheme SCT, SNOMED CT."""

    scheme: Literal["SCT"]
    value: str
    meaning: str


class Code(Side):
    """A structure, with its side where it has one."""

    modifier: Side | None = None


class Label(_Part):
    """What a value of the label map means."""

    value: Annotated[int, Field(ge=1)]
    organ: Annotated[str, Field(description="key of the organ, such as kidney_left")]
    title: Annotated[str, Field(description="name for people")]
    code: Annotated[Code | None, Field(description="null: of an organ that segmate does not know")]


class Origin(_Part):
    """What made a series, and when; "" where it does not say."""

    manufacturer: str
    model: str
    kernel: str
    year: Annotated[str, Field(pattern=r"^(\d{4})?$", description="of the acquisition")] = ""
    month: Annotated[
        str, Field(pattern=r"^(\d{4}-\d{2})?$", description="YYYY-MM, with --keep-month; no day")
    ]


class Series(_Part):
    """The DICOM series that was segmented."""

    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    sop_class_uid: str
    sop_instance_uids: Annotated[list[str], Field(description="one a slice, in the order of k")]
    scanner: Origin | None = None


class SidecarInput(_Part):
    """The scan."""

    path: Annotated[str | None, Field(description="as it was given")]
    kind: Literal["nifti", "dicom"] | None
    shape_kji: _Shape
    spacing_kji_mm: _Three
    affine_kji_to_lps_mm: Annotated[
        _Affine, Field(description="from (slice, row, column, 1) to the patient's LPS millimetres")
    ]
    pixels_sha256: Annotated[
        _Sha256 | None,
        Field(description="of the voxels as HU: little-endian int16, slice by slice"),
    ]
    assumed_orientation: Annotated[
        Literal["RAS"] | None, Field(description="of a file that has none, with --assume-ras")
    ] = None
    slice_places_lps_mm: Annotated[
        list[_Three] | None, Field(description="of uneven slices: their first voxels")
    ] = None
    slice_extents_mm: Annotated[
        list[float] | None, Field(description="of uneven slices: how much each stands for")
    ] = None
    dicom: Series | None = None


class SidecarOutput(_Part):
    """The label map."""

    file: Annotated[str, Field(description="its name, in the sidecar's folder")]
    file_sha256: _Sha256
    voxels_sha256: Annotated[_Sha256, Field(description="of the label values, slice by slice")]
    shape_kji: Annotated[_Shape | None, Field(description="where uneven slices were evened")] = None
    spacing_kji_mm: _Three | None = None
    affine_kji_to_lps_mm: _Affine | None = None
    slice_of_plane: Annotated[
        list[int] | None, Field(description="which of the scan's slices each plane shows")
    ] = None


class SidecarModel(_Part):
    """The model."""

    name: str
    version: str
    licence: str
    intended_use: str
    weights_sha256: _Sha256


class GateFinding(_Part):
    """A gate that did not pass."""

    rule: Annotated[str, Field(description="id; 'segmate gates explain' tells more")]
    severity: Severity
    organ: str | None
    text: str
    value: float | None


class SidecarOrgan(_Part):
    """One organ asked for."""

    organ: str
    volume_ml: Annotated[_Millilitres, Field(description="null: no voxel was labelled")]
    status: StatusKind
    is_lower_bound: bool
    faces: list[str]
    edge_share: _Share
    reasons: list[str]
    volume_pv_ml: _Millilitres = None
    volume_low_ml: _Millilitres = None
    volume_high_ml: _Millilitres = None
    confidence: _Share = None
    agreement: _Share = None


class Doubt(_Part):
    """What the gates say."""

    verdict: Literal["ok", "review"]
    reasons: list[str]
    findings: list[GateFinding]
    regions: Annotated[list[str], Field(description="parts of the body in view")]
    phase: Annotated[str | None, Field(description="of the contrast, a guess")]
    circle: Annotated[
        bool | None, Field(description="whether the reconstruction's circle cuts the scan")
    ]
    gates: Annotated[list[str], Field(description="ids of the gates that were applied")]
    organs: list[SidecarOrgan]


class _Open(BaseModel):
    """Settings and figures of a run, to which versions may add."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class Options(_Open):
    """Options of the run, as they were resolved."""

    organs: list[str] | None
    batch_size: int
    threads: int | None
    memory_cap_bytes: int
    gpu_memory_cap_bytes: int | None
    check_hu: bool
    fast: bool
    keep_month: bool = False


class Sidecar(_Part):
    """``labels.json`` beside ``labels.nii.gz``, as ``predict`` and ``batch`` write it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, title="segmate-labels")

    schema_: Annotated[Literal["segmate-labels"], Field(alias="schema")]
    schema_version: Literal[1]
    segmate_version: str
    created: Annotated[str, Field(description="UTC, ISO 8601")]
    labels: list[Label]
    input: SidecarInput
    output: SidecarOutput
    model: SidecarModel
    engine: str
    device: str
    engine_description: str
    options: Options
    model_grid: Annotated[dict[str, Any], Field(description="the grid that the network saw")]
    slice_position: Annotated[dict[str, Any], Field(description="slices told to the network")]
    plan: Annotated[dict[str, Any], Field(description="as 'segmate plan --format json' has it")]
    seconds: Annotated[dict[str, float], Field(description="by stage; stages overlap")]
    warnings: list[str]
    doubt: Doubt
    peak_memory_bytes: int
    packages: Annotated[dict[str, str], Field(description="versions of what results depend on")]
    python: str
    platform: str
