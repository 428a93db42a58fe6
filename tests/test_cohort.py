"""A cohort's numbers: robust outliers, what to review, drift that is one and drift that is none."""

from __future__ import annotations

import numpy as np
import pytest
from cohort_maker import make_cohort, odd_cases, of_scanners, record, row, write_cohort

from segmate_cli.batch import records
from segmate_cli.batch.records import Record
from segmate_cli.cohort import groups_of, kolmogorov_smirnov_p, robust_z, summarise


@pytest.fixture
def cohort():
    return summarise(make_cohort(**odd_cases()))


def of(cohort, organ, measure="volume_ml"):
    return next(
        each for each in cohort.distributions if (each.organ, each.measure) == (organ, measure)
    )


def test_cases_are_counted_by_state(cohort):
    assert cohort.cases == 46
    assert cohort.states == {"done": 44, "review": 1, "failed": 1}
    assert cohort.causes == {"input": 1}


def test_outliers_are_told_from_the_rest(cohort):
    assert [each.case for each in of(cohort, "liver").outliers] == ["huge"]
    assert [each.case for each in of(cohort, "liver", "mean_hu").outliers] == ["dense"]
    assert of(cohort, "spleen").outliers == ()


def test_lower_bounds_and_missing_organs_are_no_values(cohort):
    liver = of(cohort, "liver")
    cases = {each.case for each in liver.values}
    assert "cut" not in cases
    assert "lost" not in cases
    assert (liver.cut, liver.missing, liver.absent) == (1, 1, 0)
    assert len(liver.values) == 42


def test_the_gravest_come_first(cohort):
    ranks = {entry.case: entry.rank for entry in cohort.review}
    assert ranks == {"broken": 0, "doubtful": 1, "lost": 1, "huge": 2, "dense": 2}
    assert cohort.review[0].reasons == ("failed (input): cut short in slice 3.",)
    huge = next(entry for entry in cohort.review if entry.case == "huge")
    assert huge.reasons[0].startswith("liver: 9000.0 ml, z +")


def test_z_is_that_of_iglewicz_and_hoaglin():
    numbers = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 100.0])
    z = robust_z(numbers, "mean_hu")
    assert z[-1] == pytest.approx(0.6745 * (100 - 5) / 2)
    assert z[4] == 0.0


def test_volumes_are_compared_by_ratio():
    numbers = np.array([100.0 * 1.1**n for n in range(-5, 6)])
    z = robust_z(numbers, "volume_ml")
    assert z[0] == pytest.approx(-z[-1])


def test_equal_values_make_no_outlier_of_a_rounding():
    assert np.abs(robust_z(np.array([50.0] * 20 + [50.1]), "mean_hu")).max() < 1


def test_few_cases_have_no_outliers():
    few = [record(f"c{n}", [row("liver", 1500.0 * 10**n, 60.0)]) for n in range(4)]
    cohort = summarise(few)
    assert all(value.z is None for value in of(cohort, "liver").values)
    assert cohort.review == ()


def test_no_drift_between_two_draws_of_the_same():
    """At p < 0.01 for all six tests together, one in a hundred seeds may alarm; 20 do not."""
    alarms = 0
    old = make_cohort(60)
    for seed in range(1, 21):
        alarms += len(summarise(make_cohort(40, seed=seed), old).alarms)
    assert alarms <= 1


def test_drift_is_found(tmp_path):
    old = write_cohort(tmp_path / "old", 60)
    new = write_cohort(tmp_path / "new", 60, scale=1.2, seed=5)
    cohort = summarise(records.all_records(new), records.all_records(old))
    assert {each.measure for each in cohort.alarms} == {"volume_ml"}
    assert len(cohort.alarms) == 3
    shift = of(cohort, "liver").drift.shift
    assert shift == pytest.approx(np.log(1.2) / 0.15, abs=0.45)


def test_the_p_value_is_scipys():
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(1)
    for shift in (0.0, 0.3, 0.6, 1.0):
        one, other = rng.normal(0, 1, 80), rng.normal(shift, 1, 120)
        exact = ks_2samp(one, other).pvalue
        assert kolmogorov_smirnov_p(one, other) == pytest.approx(exact, rel=0.35, abs=2e-3)
    assert kolmogorov_smirnov_p(np.arange(9.0), np.arange(9.0)) == 1.0


def test_groups_are_named_by_what_is_known():
    assert groups_of({}) == {}
    assert groups_of({"manufacturer": "", "model": "", "kernel": "", "month": ""}) == {}
    whole = {"manufacturer": "ACME", "model": "One", "kernel": "B30f", "month": "2025-03"}
    both = {"month": "2025-03", "year": "2025"}
    assert groups_of(whole) == {**both, "scanner": "ACME One, kernel B30f"}
    assert groups_of({**whole, "year": "2025", "month": ""}).keys() == {"year", "scanner"}
    assert groups_of({"kernel": "B30f"}) == {"scanner": "kernel B30f"}


def test_a_scanner_that_differs_is_told_from_the_others():
    cohort = summarise(of_scanners(scale=1.35))
    odd = [each for each in cohort.trends if each.part.drift.alarm]
    assert {each.by for each in odd} == {"scanner"}
    assert {each.part.measure for each in odd} == {"volume_ml"}
    assert {each.part.organ for each in odd} == {"liver", "spleen", "kidney_left"}
    other = next(each for each in odd if each.group.startswith("Other"))
    assert other.part.drift.shift > 1
    assert other.part.drift.reference_cases == 24


def test_months_and_scanners_that_are_alike_raise_no_alarm():
    cohort = summarise(of_scanners())
    assert len(cohort.trends) == (2 + 4) * 6
    assert not any(each.part.drift.alarm for each in cohort.trends)
    months = [each.group for each in cohort.trends if each.by == "month"]
    assert sorted(set(months)) == ["2025-01", "2025-02", "2025-03", "2025-04"]


def by_year(made: list[Record]) -> list[Record]:
    """The same records as they are without ``--keep-month``, of two years."""
    return [
        each.model_copy(
            update={"scanner": {**each.scanner, "year": f"202{3 + n % 2}", "month": ""}}
        )
        for n, each in enumerate(made)
    ]


def test_where_months_are_not_kept_years_are_compared():
    cohort = summarise(by_year(of_scanners()))
    assert {(each.by, each.group) for each in cohort.trends if each.by != "scanner"} == {
        *(("year", "2023"), ("year", "2024")),
    }
    assert all(len(each.part.values) == 24 for each in cohort.trends if each.by == "year")


def test_records_with_and_without_months_are_told_apart():
    kept, others = of_scanners()[:24], by_year(of_scanners()[24:])
    cohort = summarise([*kept, *others])
    sizes = {(each.by, each.group): len(each.part.values) for each in cohort.trends}
    assert {group for by, group in sizes if by == "month"} == {f"2025-0{n}" for n in (1, 2, 3, 4)}
    assert {group: n for (by, group), n in sizes.items() if by == "year"} == {
        "2023": 12,
        "2024": 12,
    }


def test_a_scan_of_nobody_knows_what_is_in_no_group():
    plain = [each.model_copy(update={"case": f"plain {each.case}"}) for each in make_cohort(20)]
    cohort = summarise([*of_scanners(), *plain])
    assert len(of(cohort, "liver").values) == 68
    for each in cohort.trends:
        assert len(each.part.values) == (24 if each.by == "scanner" else 12)
        assert each.part.drift.reference_cases == 48 - len(each.part.values)
    assert summarise(plain).trends == ()
