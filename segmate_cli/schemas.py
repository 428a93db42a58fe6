"""The JSON that programs read, as schemas: what each field means, and what it may hold.

``segmate schema NAME`` prints them. A field may be added under the same version; one that is
renamed, or means something else, makes a new one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from segmate_cli.doubt.words import Severity, StatusKind
from segmate_cli.sidecar_schema import Sidecar

_Share = Annotated[float, Field(ge=0, le=1)]
_Volume = Annotated[float, Field(gt=0)] | None
_Word = Literal["ok", "review"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Finding(_Part):
    """A gate that did not pass; ``segmate gates explain RULE`` tells more."""

    rule: Annotated[str, Field(description="id of the rule")]
    severity: Annotated[Severity, Field(description="review, or note, which asks for nothing")]
    organ: Annotated[str | None, Field(description="key of the organ; null: about the scan")]
    text: Annotated[str, Field(description="what was measured and what is usual, one sentence")]
    value: Annotated[float | None, Field(description="what was measured")]


class ScanVerdict(_Part):
    """What the gates say of one label map and its scan."""

    scan: Annotated[str, Field(description="the label map's path, as it was given")]
    verdict: Annotated[_Word, Field(description="review, where somebody should look")]
    reasons: Annotated[list[str], Field(description="why, one sentence each")]
    findings: Annotated[list[Finding], Field(description="all gates that did not pass")]


class ReportRow(_Part):
    """One organ of one label map."""

    scan: Annotated[str, Field(description="the label map's path, or the batch's case")]
    organ: Annotated[str, Field(description="key of the organ, such as kidney_left")]
    volume_ml: Annotated[
        _Volume, Field(description="volume in ml; null (empty) where no voxel is labelled")
    ]
    voxels: Annotated[int, Field(ge=0, description="voxels with its label")]
    mean_hu: Annotated[float | None, Field(description="mean HU inside; null without the scan")]
    sd_hu: Annotated[float | None, Field(ge=0, description="standard deviation of the HU inside")]
    touches_edge: Annotated[bool, Field(description="whether a voxel lies on the grid's edge")]
    volume_pv_ml: Annotated[
        _Volume,
        Field(description="volume with voxels at the organ's ends counted in part, by the scores"),
    ]
    volume_low_ml: Annotated[
        float | None,
        Field(ge=0, description="lower end of the volume's interval; of --uncertainty"),
    ]
    volume_high_ml: Annotated[float | None, Field(ge=0, description="its upper end")]
    confidence: Annotated[
        _Share | None, Field(description="Dice that the network expects of its own mask")
    ]
    agreement: Annotated[
        _Share | None, Field(description="least Dice with the masks of variants; of --uncertainty")
    ]
    status: Annotated[
        StatusKind,
        Field(
            description="complete; truncated, cut by the edge; absent, out of view; not_found, "
            "where it should be in view; implausible; low_confidence"
        ),
    ]
    is_lower_bound: Annotated[
        bool, Field(description="whether the organ goes on beyond the edge: volume is a least one")
    ]
    faces: Annotated[
        list[str], Field(description="edges that it meets: superior, inferior, left, ..., circle")
    ]
    edge_share: Annotated[
        _Share | None, Field(description="part of its surface on the edge; null without voxels")
    ]
    reasons: Annotated[list[str], Field(description="why it is not complete, one phrase each")]
    verdict: Annotated[
        _Word | None, Field(description="of the whole scan, the same in each row; null: not judged")
    ]


class Report(_Part):
    """``segmate report --format json``, and a batch's ``report.json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, title="segmate-report")

    schema_: Annotated[Literal["segmate-report"], Field(alias="schema")]
    schema_version: Literal[1]
    scans: Annotated[list[ScanVerdict], Field(description="verdicts, one a label map")]
    rows: Annotated[list[ReportRow], Field(description="one a label map and organ")]


class ComparedCase(_Part):
    """Two label maps."""

    case: Annotated[str, Field(description="name of the case")]
    same_voxels: Annotated[bool, Field(description="whether they lie on the same voxels")]
    changed_share: Annotated[
        _Share | None, Field(description="of the voxels labelled in either, those that differ")
    ]


class ComparisonRow(_Part):
    """One organ of two label maps."""

    case: Annotated[str, Field(description="name of the case")]
    organ: Annotated[str, Field(description="key of the organ")]
    volume_a_ml: Annotated[_Volume, Field(description="in A; null where not found")]
    volume_b_ml: Annotated[_Volume, Field(description="in B")]
    change_ml: Annotated[float | None, Field(description="B minus A")]
    change_percent: Annotated[float | None, Field(description="the same, relative to A")]
    is_lower_bound: Annotated[
        bool, Field(description="whether it is cut in either, so that the change is not known")
    ]
    dice: Annotated[_Share | None, Field(description="overlap; null on different voxels")]
    only_a_ml: Annotated[float | None, Field(ge=0, description="labelled in A alone")]
    only_b_ml: Annotated[float | None, Field(ge=0, description="labelled in B alone")]
    moved_mm: Annotated[float | None, Field(ge=0, description="distance of the middles")]
    where: Annotated[
        list[str], Field(description="sides of the organ with two thirds of the difference or more")
    ]
    became: Annotated[
        dict[str, _Share], Field(description="what A's voxels are in B: organ and share, over 5 %")
    ]
    came_from: Annotated[dict[str, _Share], Field(description="what B's voxels are in A")]
    status_a: Annotated[StatusKind | None, Field(description="in A; null: A has none such")]
    status_b: Annotated[StatusKind | None, Field(description="in B")]
    change_low_ml: Annotated[
        float | None,
        Field(description="lower end of the change's interval; of runs with --uncertainty"),
    ]
    change_high_ml: Annotated[float | None, Field(description="its upper end")]


class ComparedOrgan(_Part):
    """One organ over all cases."""

    organ: str
    cases: int
    mean_dice: _Share | None
    worst_dice: _Share | None
    worst_dice_case: str | None
    median_change_percent: float | None
    largest_change_percent: float | None
    largest_change_case: str | None
    found_in_a_alone: int
    found_in_b_alone: int
    with_interval: Annotated[int, Field(description="cases whose change has an interval")]
    beyond_interval: Annotated[int, Field(description="of these, those that 0 lies outside of")]


class Comparison(_Part):
    """``segmate compare --format json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, title="segmate-comparison")

    schema_: Annotated[Literal["segmate-comparison"], Field(alias="schema")]
    schema_version: Literal[1]
    cases: list[ComparedCase]
    rows: Annotated[list[ComparisonRow], Field(description="one a case and organ")]
    organs: Annotated[list[ComparedOrgan], Field(description="over all cases")]


class CohortDrift(_Part):
    """How a distribution differs from the reference's."""

    shift: Annotated[float, Field(description="of the median, in robust standard deviations")]
    p: Annotated[_Share, Field(description="two-sample Kolmogorov-Smirnov")]
    reference_cases: int
    reference_median: float
    alarm: bool


class CohortOutlier(_Part):
    """A value that lies far off."""

    case: str
    value: float
    z: Annotated[float, Field(description="modified z-score")]


class CohortOrgan(_Part):
    """One measure of one organ over a cohort."""

    organ: str
    measure: Literal["volume_ml", "mean_hu"]
    cases: Annotated[int, Field(description="with a value that is no lower bound")]
    cut: Annotated[int, Field(description="cases whose volume is a lower bound")]
    not_found: int
    absent: int
    min: float | None
    p5: float | None
    q1: float | None
    median: float | None
    q3: float | None
    p95: float | None
    max: float | None
    outliers: list[CohortOutlier]
    drift: CohortDrift | None


class CohortTrend(_Part):
    """One measure of one organ in a month or year, or of a scanner."""

    by: Literal["month", "year", "scanner"]
    group: Annotated[str, Field(description="YYYY-MM; YYYY; or manufacturer, model and kernel")]
    organ: str
    measure: Literal["volume_ml", "mean_hu"]
    cases: int
    q1: float | None
    median: float | None
    q3: float | None
    against_others: Annotated[
        CohortDrift | None, Field(description="all other groups as the reference; null: too few")
    ]


class CohortEntry(_Part):
    """A case to review."""

    case: str
    reasons: list[str]


class CohortSummary(_Part):
    """``segmate cohort --format json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, title="segmate-cohort")

    schema_: Annotated[Literal["segmate-cohort"], Field(alias="schema")]
    schema_version: Literal[1]
    cases: int
    states: Annotated[dict[str, int], Field(description="cases by state")]
    failures: Annotated[dict[str, int], Field(description="failed cases by cause")]
    organs: list[CohortOrgan]
    trends: Annotated[list[CohortTrend], Field(description="by date and scanner, where known")]
    review: Annotated[list[CohortEntry], Field(description="the gravest first")]


class ScoreRow(_Part):
    """One organ of one case against its reference."""

    case: Annotated[str, Field(description="name of the case")]
    organ: Annotated[str, Field(description="key of the organ")]
    dice: Annotated[_Share, Field(description="overlap of the volumes")]
    surface_dice_2mm: Annotated[
        _Share, Field(description="part of both surfaces within 2 mm of the other")
    ]
    hd95_mm: Annotated[
        float | None,
        Field(ge=0, description="95th percentile of surface distances; null where one is empty"),
    ]
    volume_ml: Annotated[float, Field(ge=0, description="of the prediction")]
    reference_ml: Annotated[float, Field(ge=0, description="of the reference")]
    volume_error_ml: Annotated[float, Field(description="prediction minus reference")]
    volume_error_percent: Annotated[
        float | None, Field(description="the same, relative to the reference; null where it is 0")
    ]
    swapped: Annotated[
        bool, Field(description="whether it lies more in the other side of the pair")
    ]


class ScoredOrgan(_Part):
    """One organ over all cases."""

    organ: str
    cases: int
    dice: Annotated[_Share, Field(description="mean")]
    dice_low: Annotated[_Share, Field(description="95 % interval of the mean, by bootstrap")]
    dice_high: _Share
    worst_dice: _Share
    worst_case: str
    surface_dice: Annotated[_Share, Field(description="mean, at 2 mm")]
    hd95_mm: float | None
    volume_error_percent: float | None
    swaps: Annotated[int, Field(description="cases with sides swapped")]


class Scores(_Part):
    """``segmate evaluate --format json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, title="segmate-scores")

    schema_: Annotated[Literal["segmate-scores"], Field(alias="schema")]
    schema_version: Literal[1]
    mean_dice_of_organs: _Share | None
    organs: Annotated[list[ScoredOrgan], Field(description="over all cases")]
    cases: Annotated[list[ScoreRow], Field(description="one a case and organ")]
    not_labelled: Annotated[
        dict[str, list[str]], Field(description="by case, organs that its reference leaves out")
    ]


SCHEMAS: dict[str, type[BaseModel]] = {
    "report": Report,
    "comparison": Comparison,
    "cohort": CohortSummary,
    "sidecar": Sidecar,
    "evaluate": Scores,
}


def json_schema(name: str) -> dict[str, Any]:
    """The JSON schema of one of SCHEMAS, in the dialect that pydantic writes (2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **SCHEMAS[name].model_json_schema(by_alias=True),
    }


def columns(row: type[BaseModel]) -> dict[str, str]:
    """Columns of a table and what they mean."""
    return {name: field.description or "" for name, field in row.model_fields.items()}
