"""The organ table: consistent, coded, and found by the words that people use."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmate_cli import organs
from segmate_cli.errors import UnknownOrganError
from segmate_cli.organs import ORGANS, foreign_organ, select


def keys(*words: str) -> list[str]:
    return [organ.key for organ in select(words, ORGANS)]


def all_names(organ: organs.Organ) -> set[str]:
    return {organ.key, organ.title, *organ.aliases}


def test_no_name_means_two_organs():
    for one, other in itertools.combinations(ORGANS, 2):
        assert not {n.lower() for n in all_names(one)} & {n.lower() for n in all_names(other)}


def test_colours_differ_to_the_eye():
    for one, other in itertools.combinations(ORGANS, 2):
        apart = sum(abs(a - b) for a, b in zip(one.rgb, other.rgb, strict=True))
        assert apart >= 40, (one.key, other.key)
        assert all(0 <= part <= 255 for part in one.rgb)


@pytest.mark.parametrize("organ", ORGANS, ids=lambda organ: organ.key)
def test_codes_are_in_the_dictionary_of_dicom(organ):
    dictionary = pytest.importorskip("pydicom.sr._concepts_dict").concepts["SCT"]
    meanings = {code: entry[code][0] for entry in dictionary.values() for code in entry}
    assert organ.code in meanings
    # A pair has the code of the organ, its side apart.
    assert (organ.side is None) == (not organ.key.endswith(("_left", "_right")))
    assert organ.side is None or organ.side in organs.LATERALITY_CODES


def test_the_sides_of_a_pair_share_code_and_meaning():
    for organ in ORGANS:
        if organ.side == "left":
            other = organs.organ(organ.key.removesuffix("left") + "right")
            assert (organ.code, organ.meaning) == (other.code, other.meaning)


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("liver", ["liver"]),
        ("LIVER", ["liver"]),
        ("  Liver ", ["liver"]),
        ("kidney_left", ["kidney_left"]),
        ("left kidney", ["kidney_left"]),
        ("Left-Kidney", ["kidney_left"]),
        ("KIDNEY LEFT", ["kidney_left"]),
        ("kidney r", ["kidney_right"]),
        ("kidney", ["kidney_left", "kidney_right"]),
        ("Kidneys", ["kidney_left", "kidney_right"]),
        ("lungs", ["lung_left", "lung_right"]),
        ("oesophagus", ["esophagus"]),
        ("spinal  cord", ["spinal_cord"]),
        ("cord", ["spinal_cord"]),
        ("windpipe", ["trachea"]),
    ],
)
def test_words_that_people_use(word, found):
    assert keys(word) == found


def test_the_order_is_that_of_the_words_and_doubles_are_dropped():
    assert keys("spleen", "kidney", "left kidney", "SPLEEN") == [
        "spleen",
        "kidney_left",
        "kidney_right",
    ]
    assert keys() == []


@settings(deadline=None)
@given(st.sampled_from(ORGANS), st.sampled_from([" ", "_", "-", "  "]), st.booleans())
def test_case_and_separators_do_not_matter(organ, separator, shout):
    word = organ.key.replace("_", separator)
    assert keys(word.upper() if shout else word) == [organ.key]


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("hart", "heart"), ("lver", "liver"), ("kidney_lefd", "kidney_left"), ("spleens", "spleen")],
)
def test_an_unknown_word_gets_the_nearest_and_the_list(word, nearest):
    with pytest.raises(UnknownOrganError) as caught:
        select([word], ORGANS)
    message = str(caught.value)
    assert message.startswith(f"unknown organ '{word}'; nearest: {nearest}")
    assert all(organ.key in message for organ in ORGANS)


@pytest.mark.parametrize("word", ["", " ", "_", "xyzzy", "left", "s"])
def test_a_word_that_is_near_nothing_finds_nothing(word):
    with pytest.raises(UnknownOrganError, match="Known here: lung_left"):
        select([word], ORGANS)


def test_only_what_the_file_at_hand_has_is_known():
    few = [organs.organ("kidney_right"), organs.organ("heart")]
    assert [each.key for each in select(["kidney"], few)] == ["kidney_right"]
    with pytest.raises(UnknownOrganError, match="Known here: kidney_right, heart"):
        select(["liver"], few)


def test_exact_keys():
    assert organs.organ("liver").title == "Liver"
    assert organs.is_known("liver")
    assert not organs.is_known("Liver")
    with pytest.raises(UnknownOrganError, match="nearest: liver"):
        organs.organ("Liver")


def test_somebody_elses_organs():
    assert foreign_organ("Kidney_Left", 9) is organs.organ("kidney_left")
    assert foreign_organ("Left Kidney", 9) is organs.organ("kidney_left")
    femur = foreign_organ("femur_left", 75)
    assert (femur.key, femur.title, femur.code) == ("femur_left", "Femur left", None)
    assert select(["Femur-Left"], [femur]) == (femur,)


@settings(deadline=None)
@given(st.integers(1, 65535))
def test_colours_of_foreign_labels_are_colours(value):
    assert all(0 <= part <= 255 for part in foreign_organ("x", value).rgb)
    assert foreign_organ("x", value).rgb != foreign_organ("x", value + 1).rgb
