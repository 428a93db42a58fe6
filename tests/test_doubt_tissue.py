"""Wrong spacings told by tissue alone, of a phantom's trunk."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from body_maker import Body, half_the_slices, make_body, scaled
from phantom import LABELS

from segmate_cli.doubt.case import Case
from segmate_cli.doubt.rules import BY_ID

RULE = BY_ID["squeezed"]


@pytest.fixture(scope="module")
def body() -> Body:
    return make_body()


def told(body: Body) -> dict[str, float]:
    """What the gate measures, whatever its limits."""
    seen: dict[str, float] = {}

    def measure(case: Case) -> dict[str, float]:
        seen.update(RULE.measure(case))
        return seen

    body.measured(rules=(dataclasses.replace(RULE, measure=measure),))
    return seen


def reviews(body: Body) -> bool:
    return bool(body.measured(rules=(RULE,)).verdict.findings)


@pytest.mark.parametrize(
    ("failure", "factor"),
    [
        (half_the_slices, 2.0),
        (scaled(0.5, 1, 1), 2.0),
        (scaled(2, 1, 1), 0.5),
        (scaled(1, 0.5, 0.5), 0.5),
        (scaled(1, 2, 2), 2.0),
    ],
)
def test_a_length_is_told_of_each_wrong_spacing(body, failure, factor):
    usual, wrong = (told(each)["squeezed"] for each in (body, failure(body)))
    assert np.log2(wrong / usual) == pytest.approx(np.log2(factor), abs=0.7)
    assert not reviews(body)
    assert reviews(failure(body))


def test_a_part_with_one_organ_is_enough_however_its_slices_lie(body):
    liver = np.where(body.labels == LABELS["liver"], body.labels, 0)
    top = np.flatnonzero(liver.any(axis=(1, 2)))[-1]
    part = body.but(hu=body.hu[top - 20 : top + 8], labels=liver[top - 20 : top + 8])
    coronal = Body(part.hu.swapaxes(0, 1), part.labels.swapaxes(0, 1), part.affine[:, [1, 0, 2, 3]])
    usual, halved = (told(each)["in a short scan"] for each in (part, half_the_slices(part)))
    assert halved > 1.7 * usual
    assert told(coronal)["in a short scan"] == pytest.approx(usual, rel=1e-6)
    assert part.measured(ct=False, rules=(RULE,)).verdict.findings == ()


def test_without_an_organ_it_says_less(body):
    """Nobody tells a trunk from a neck then: what may be either is taken for usual."""
    bare = body.but(labels=np.zeros_like(body.labels))
    assert told(half_the_slices(bare))["squeezed"] == pytest.approx(1.0)
    assert not reviews(half_the_slices(bare))
    assert told(scaled(2, 1, 1)(bare))["squeezed"] < 0.5
    assert reviews(scaled(2, 1, 1)(bare))


def test_a_short_scan_has_limits_of_its_own_and_a_thin_one_none(body):
    middle = len(body.hu) // 2

    def part(slices: int) -> Body:
        own = slice(middle - slices // 2, middle - slices // 2 + slices)
        return body.but(hu=body.hu[own], labels=body.labels[own])

    assert {*told(part(40))} == {"squeezed"}
    assert {*told(part(20))} == {"in a short scan"}
    assert told(part(10)) == {}
    wide, narrow = RULE.limits["in a short scan"], RULE.limits["*"]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
