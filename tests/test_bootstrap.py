"""Bootstrap intervals: what they resample, when there are none, and how often they are right."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reground.evaluation.scoring.bootstrap import Interval, distinct, intervals
from reground.evaluation.scoring.metrics import clustered_mean


def overall(values: Sequence[float], clusters: Sequence[str]) -> Interval | None:
    return intervals({"x": values}, tasks=["t"] * len(values), clusters=clusters)["x"].overall


def names(count: int, *, prefix: str = "") -> list[str]:
    return [f"{prefix}{index}" for index in range(count)]


def test_an_interval_holds_the_quantiles_of_every_possible_resample() -> None:
    # Four images, 4^4 resamples; the percentile method by brute force.
    values = [0.0, 0.2, 0.7, 1.0]
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=4)]
    found = overall(values, names(4))
    assert found is not None
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.03)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.03)


def test_many_images_give_the_normal_interval() -> None:
    values = (np.arange(1500) % 10 < 7).astype(float).tolist()
    found, half = overall(values, names(1500)), 1.96 * math.sqrt(0.7 * 0.3 / 1500)
    assert found == pytest.approx((0.7 - half, 0.7 + half), abs=0.002)


@pytest.mark.parametrize("times", [2, 5])
def test_images_are_resampled_and_not_samples(times: int) -> None:
    values, images = [0.0, 1.0, 1.0, 0.0, 1.0, 0.3], names(6)
    assert overall(values * times, images * times) == pytest.approx(overall(values, images))


@pytest.mark.parametrize("clusters", [[], ["a"], ["a", "a", "a"]])
def test_fewer_than_two_images_give_no_interval(clusters: list[str]) -> None:
    found = intervals({"x": [1.0] * len(clusters)}, tasks=["t"] * len(clusters), clusters=clusters)[
        "x"
    ]
    assert (found.overall, found.macro) == (None, None)
    assert set(found.tasks.values()) <= {None}


def test_a_task_of_one_image_has_none_and_the_mean_over_tasks_neither() -> None:
    found = intervals(
        {"x": [1.0, 0.0, 1.0]}, tasks=["one", "two", "two"], clusters=["a", "b", "c"]
    )["x"]
    assert found.overall is not None and found.tasks["two"] is not None
    assert (found.tasks["one"], found.macro) == (None, None)


def test_tasks_that_most_resamples_miss_have_no_mean_over_tasks() -> None:
    # Ten tasks of two images: three of four resamples leave one of them without any.
    tasks = [f"{index // 2}" for index in range(20)]
    found = intervals({"x": [0.0, 1.0] * 10}, tasks=tasks, clusters=names(20))["x"]
    assert found.macro is None
    assert None not in (found.overall, *found.tasks.values())


def test_shared_images_stay_together_across_tasks() -> None:
    values = [0.0, 1.0] * 100

    def macro_width(second: list[str]) -> float:
        tasks = ["one"] * 200 + ["two"] * 200
        found = intervals({"x": values * 2}, tasks=tasks, clusters=names(200, prefix="s") + second)[
            "x"
        ].macro
        assert found is not None
        return found.high - found.low

    apart, shared = macro_width(names(200)), macro_width(names(200, prefix="s"))
    assert shared / apart == pytest.approx(math.sqrt(2), rel=0.1)


def test_each_measure_and_task_has_its_own_interval() -> None:
    tasks, clusters = ["low"] * 30 + ["high"] * 30, names(60)
    found = intervals(
        {"x": [0.1, 0.2] * 15 + [0.8, 0.9] * 15, "y": [1.0] * 60}, tasks=tasks, clusters=clusters
    )
    low, high = found["x"].tasks["low"], found["x"].tasks["high"]
    assert low is not None and high is not None and found["x"].macro is not None
    assert 0.1 < low.low < low.high < 0.2 < 0.8 < high.low < high.high < 0.9
    assert found["x"].macro.low < 0.5 < found["x"].macro.high
    assert found["y"].overall == found["y"].macro == found["y"].tasks["low"] == (1.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.integers(1, 3))
def test_an_interval_lies_within_the_values_and_around_the_mean(
    values: list[float], per_image: int
) -> None:
    images = [str(index // per_image) for index in range(len(values))]
    found = overall(values, images)
    if len(set(images)) < 2:
        assert found is None
        return
    assert found is not None
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    stderr = clustered_mean(values, images).stderr or 0.0
    assert found.high - found.low <= 6 * stderr + 1e-9


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """200 simulated runs of 100 images with two questions each, right with probability 0.7.

    A share of 0.95 has a standard error of 0.015 here; the percentile method is a little narrow.
    """
    rng, inside = np.random.default_rng(7), 0
    images = [str(index // 2) for index in range(200)]
    for _ in range(200):
        image_rate = rng.beta(7, 3, size=100).repeat(2)
        found = overall((rng.random(200) < image_rate).astype(float).tolist(), images)
        assert found is not None
        inside += found.low <= 0.7 <= found.high
    assert 0.90 <= inside / 200 <= 0.99


ROWS = st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 3), min_size=1)


@given(ROWS, st.integers(1, 3))
def test_distinct_rows_are_those_of_numpy(rows: list[tuple[float, ...]], width: int) -> None:
    own = np.array(rows)[:, :width]
    expected = np.unique(own, axis=0, return_counts=True)
    assert all(map(np.array_equal, distinct(own), expected))


@given(st.lists(st.integers(0, 4), min_size=1))
def test_clusters_are_the_same_as_a_list_and_as_an_array(clusters: list[int]) -> None:
    values, tasks = [float(own % 2) for own in clusters], ["t"] * len(clusters)
    found = [intervals({"x": values}, tasks=tasks, clusters=own)
             for own in (clusters, np.array(clusters))]  # fmt: skip
    assert found[0] == found[1]
