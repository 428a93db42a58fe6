"""Which series is taken: by rules, by number, by UID, by what its headers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dicom_maker import PATIENT, Recipe, make_series

from segmate_cli.dicom import choose, find_series, score, series_table
from segmate_cli.dicom.choice import KEYS
from segmate_cli.dicom.scoring import CLEAR_LEAD, RULES, kernel_type
from segmate_cli.errors import AmbiguousSeriesError, InputError, SegmateError, UsageError

TABLE = (Path(__file__).parent.parent / "docs" / "series.md").read_text(encoding="utf-8")
# A hospital's usual study: every series differs from the first in one way that makes it worse.
THIN = Recipe(
    series=1, shape=(100, 4, 4), step_mm=1.0, tags={"ConvolutionKernel": "Br40f", "Rows": 4}
)
WORSE: dict[str, dict[str, Any]] = {
    "thick": {"step_mm": 5.0, "shape": (20, 4, 4)},
    "short": {"shape": (20, 4, 4), "step_mm": 1.0, "series": 3},
    "sharp": {"tags": {"ConvolutionKernel": "Br69f"}},
    "derived": {"tags": {"ConvolutionKernel": "Br40f", "ImageType": ["DERIVED", "PRIMARY"]}},
    "reformat": {
        "tags": {
            "ConvolutionKernel": "Br40f",
            "ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CSA MPR"],
        }
    },
    "coronal": {"row": (1, 0, 0), "column": (0, 0, -1)},
}


def refusal(path: Path, kind: type[SegmateError], wanted: str | None = None) -> str:
    with pytest.raises(kind) as caught:
        choose(find_series(path), wanted)
    assert PATIENT not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("worse", WORSE)
def test_the_better_of_two_is_taken_in_each_respect(tmp_path: Path, worse: str) -> None:
    make_series(tmp_path / "worse", THIN.but(series=2).but(**{**WORSE[worse], "series": 2}))
    longer = THIN.but(shape=(150, 4, 4)) if worse == "short" else THIN
    made = make_series(tmp_path / "good", longer)
    finding = find_series(tmp_path)
    taken = choose(finding)
    assert taken.series.series_uid == made.series_uid
    points = {one.series_uid: score(one).points or 0 for one in finding.series}
    others = [value for uid, value in points.items() if uid != made.series_uid]
    assert points[made.series_uid] - max(others) >= CLEAR_LEAD
    assert "points ahead of series" in taken.why
    for words in ("+20 original", "+15 axial", "+15 soft kernel (Br40f)", "+15 1 mm slices"):
        assert words in taken.why


def test_two_phases_of_one_protocol_are_a_tie_whatever_their_numbers(tmp_path: Path) -> None:
    make_series(tmp_path / "a", THIN.but(series=4, tags={"SeriesDescription": "arterial"}))
    make_series(tmp_path / "b", THIN.but(series=5, tags={"SeriesDescription": "venous"}))
    message = refusal(tmp_path, AmbiguousSeriesError)
    for words in ("2 CT series and none is clearly the best", "arterial", "venous", "--series"):
        assert words in message
    for tie in (
        "description=venous",
        "DESCRIPTION = Ven",
        "number=5",
        "description=venous,number=5",
    ):
        assert choose(find_series(tmp_path), tie).series.series_number == 5
    both = "spacing=1, thickness=1,kernel=b30,orientation=axial,contrast=no,body_part=abdo"
    assert "none is clearly" in refusal(tmp_path, AmbiguousSeriesError, both)


def test_what_fits_is_ranked_by_the_same_rules(tmp_path: Path) -> None:
    make_series(tmp_path / "a", THIN.but(series=1, tags={"SeriesDescription": "native 1.0"}))
    for series, name in ((2, "venous 1.0"), (3, "venous 5.0")):
        tags = {"SeriesDescription": name, "ContrastBolusAgent": "yes"}
        step = float(name[-3:])
        recipe = THIN.but(series=series, step_mm=step, shape=(int(100 / step), 4, 4), tags=tags)
        make_series(tmp_path / name, recipe)
    finding = find_series(tmp_path)
    refusal(tmp_path, AmbiguousSeriesError)
    assert choose(finding, "contrast=yes").series.description == "venous 1.0"
    assert choose(finding, "description=venous").series.description == "venous 1.0"
    assert choose(finding, "contrast=yes,thickness=5").series.description == "venous 5.0"
    assert choose(finding, "contrast=no").why == "fits contrast=no"


def test_a_comma_may_be_part_of_a_value(tmp_path: Path) -> None:
    make_series(tmp_path / "a", THIN.but(series=1, tags={"SeriesDescription": "Thorax, Abdomen"}))
    make_series(tmp_path / "b", THIN.but(series=2, tags={"SeriesDescription": "Thorax"}))
    assert choose(find_series(tmp_path), "description=thorax, abd,number=1").series.number == 1


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("description=cardiac", "is none of the series"),
        ("colour=red", "none of the keys description, kernel"),
        ("thickness=thin", "thickness is a number"),
        ("contrast=perhaps", "contrast is yes or no"),
        ("=3", "is none of the series"),
        ("", "--series '' is none of the series"),
    ],
)
def test_a_wish_that_cannot_be_met_says_why(tmp_path: Path, wanted: str, words: str) -> None:
    make_series(tmp_path, THIN)
    assert words in refusal(tmp_path, UsageError, wanted)


def test_what_can_never_be_segmented_has_no_score_and_is_never_taken(tmp_path: Path) -> None:
    small = Recipe(shape=(3, 4, 4))
    made = make_series(tmp_path / "ct", small)
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    make_series(tmp_path / "scout", small.but(series=2, shape=(1, 4, 4), tags=scout))
    make_series(tmp_path / "mr", small.but(series=3, tags={"Modality": "MR"}))
    screen = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}
    make_series(tmp_path / "sc", small.but(series=4, tags=screen))
    dose = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "Modality": "SR"}
    make_series(tmp_path / "dose", small.but(series=5, shape=(1, 4, 4), tags=dose))
    bolus = small.but(series=6, positions_mm=(0.0, 0.0, 0.0), name="bolus{n}")
    make_series(tmp_path / "bolus", bolus)
    finding = find_series(tmp_path)
    choice = choose(finding)
    assert (choice.series.series_uid, choice.why) == (made.series_uid, "the only CT series")
    told = {one.kind: score(one) for one in finding.series if one is not choice.series}
    assert told.keys() == {
        "localizer", "other modality (MR)", "secondary capture", "dose report",
        "series of images at one place",
    }  # fmt: skip
    for kind, its in told.items():
        assert its.points is None
        assert kind in its.reasons[0]
    number = next(one.number for one in finding.series if one.description == "made 6")
    assert "place, not a stack of CT slices" in refusal(tmp_path, InputError, str(number))


def test_the_best_series_is_refused_rather_than_a_worse_one_taken(tmp_path: Path) -> None:
    make_series(tmp_path / "best", THIN.but(tilt_deg=12.0, shape=(150, 4, 4)))
    make_series(tmp_path / "worse", THIN.but(series=2, step_mm=5.0, shape=(20, 4, 4)))
    finding = find_series(tmp_path)
    if finding.series[0].problems:  # as long as tilt is refused
        refusal(tmp_path, InputError)
    assert choose(finding, "2").series.number == 2


@pytest.mark.parametrize(
    ("kernel", "description", "kind"),
    [
        ("B30f", "", "soft"), ("Br38f\\3", "", "soft"), ("I31f", "", "soft"), ("B70f", "", "sharp"),
        ("Bl57d", "", "sharp"), ("Br49f", "", "unknown"), ("STANDARD", "LUNG CANCER", "soft"),
        ("SOFT", "", "soft"), ("LUNG", "", "sharp"), ("BONEPLUS", "", "sharp"),
        ("FC08", "", "soft"), ("FC51", "", "sharp"), ("FC30", "", "sharp"), ("B", "", "soft"),
        ("L", "", "sharp"), ("", "Lunge 1.0", "sharp"), ("", "Weichteil", "soft"),
        ("", "Thorax", "unknown"), ("", "", "unknown"),
    ],
)  # fmt: skip
def test_kernels_of_the_makers(kernel: str, description: str, kind: str) -> None:
    assert kernel_type(kernel, description) == kind


def test_the_rules_add_up_and_the_page_has_them_and_the_keys(tmp_path: Path) -> None:
    assert sum(most for most, _, _ in RULES) == 100
    for most, what, _ in RULES:
        assert f"| {what} | {most} |" in TABLE
    for key in KEYS:
        assert f"`{key}`" in TABLE
    best = THIN.but(shape=(2, 4, 4), step_mm=1.0)
    assert (score(find_series(make_series(tmp_path, best).folder).series[0]).points or 0) == 80


def test_a_description_that_names_the_patient_is_masked(tmp_path: Path) -> None:
    naming = {
        "PatientName": "Mueller^Anna Li^^Dr", "PatientID": "K-4711", "PatientBirthDate": "19550102",
    }  # fmt: skip
    said = "MUELLER, anna thorax of Li (k-4711) 19550102 limb"
    make_series(tmp_path, THIN.but(tags={**naming, "SeriesDescription": said}))
    finding = find_series(tmp_path)
    assert finding.series[0].description == "***, *** thorax of *** (***) *** limb"
    for word in ("mueller", "anna", "4711", "1955"):
        assert word not in series_table(finding.series).lower() + repr(finding).lower()
