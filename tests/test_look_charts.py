"""Charts say what the numbers say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from segmate_cli.look.charts import HEIGHT, WIDTH, histogram, quantile_hu, range_bar
from segmate_cli.look.whereabouts import HU_LOW, HU_STEP


def counts_of(hu):
    steps = (np.asarray(hu) - HU_LOW) // HU_STEP
    return np.bincount(steps, minlength=260)


def test_the_peak_is_the_highest_point():
    drawn = histogram(counts_of([50] * 90 + [60] * 10), 51.0)
    points = [tuple(map(float, p)) for p in re.findall(r"L([\d.]+) ([\d.]+)", drawn.path)]
    assert min(y for _, y in points) == 8.0
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    high = [x for x, y in points if y == 8.0]
    low = [x for x, y in points if 80 < y < 92]
    assert max(high) < max(low)  # the smaller one lies to the right
    assert min(high) < drawn.mean_x < max(low)


def test_words_tell_what_is_drawn():
    words = histogram(counts_of([0] * 50 + [100] * 50), 50.0).words
    assert "mean 50" in words
    assert "below 0" in words
    assert "above 100" in words


def test_ticks_are_round_and_inside():
    ticks = histogram(counts_of(list(range(-900, 100))), -400.0).ticks
    assert 3 <= len(ticks) <= 6
    assert all(0 <= tick.x <= WIDTH for tick in ticks)
    assert all(int(tick.text.replace("\u2212", "-")) % 100 == 0 for tick in ticks)


@pytest.mark.parametrize("hu", [-1100, 0, 1499])
def test_one_voxel_is_enough(hu):
    assert histogram(counts_of([hu]), float(hu)).path.startswith("M")


def test_the_usual_range_is_a_band():
    left, width = histogram(counts_of([50] * 100), 50.0, (40.0, 60.0)).band
    assert 0 < left < WIDTH / 2 < left + width < WIDTH


def test_quantiles():
    counts = counts_of(range(0, 1000))
    assert quantile_hu(counts, 0.5) == pytest.approx(500, abs=HU_STEP)
    assert quantile_hu(counts, 0.05) == pytest.approx(50, abs=HU_STEP)


def test_a_value_lies_where_it_should_on_its_bar():
    bar = range_bar(1500.0, (1000.0, 2000.0))
    assert (bar.low, bar.value, bar.high, bar.inside) == (33.3, 50.0, 66.7, True)
    assert range_bar(9000.0, (1000.0, 2000.0)).value == 100.0
    assert not range_bar(2001.0, (1000.0, 2000.0)).inside
