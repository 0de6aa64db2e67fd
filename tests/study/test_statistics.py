"""What a study says of differences, against scipy, enumeration, hand-computed values, and simulated studies."""

import itertools
from dataclasses import replace
from typing import Any

import numpy
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.power import TTestPower

from mrpc_lightning.study.statistics import (
    compare,
    correct,
    expected_best,
    fewest,
    interval,
    over_seeds_and_pairs,
    sign_flip,
    summarize,
)
from mrpc_lightning.study.tables import verdicts

DIFFERENCES = numpy.array([0.012, -0.004, 0.021, 0.008, 0.015, -0.001, 0.009])


def test_a_summary_is_that_of_numpy_and_has_no_spread_of_one_value() -> None:
    found = summarize([0.8, 0.82, 0.86])
    assert found == {"mean": pytest.approx(0.826667, abs=1e-6), "sd": pytest.approx(0.030551, abs=1e-6)} | {
        "median": 0.82,
        "min": 0.8,
        "max": 0.86,
    }
    assert summarize([0.8])["sd"] is None


def test_p_is_that_of_all_sign_flips() -> None:
    flips = numpy.array(list(itertools.product((1, -1), repeat=len(DIFFERENCES))))
    means = (flips * DIFFERENCES).mean(axis=1)
    expected = (numpy.abs(means) >= abs(DIFFERENCES.mean()) - 1e-15).mean()
    assert sign_flip(DIFFERENCES) == pytest.approx(expected, abs=1e-12)
    assert sign_flip(numpy.full(5, 0.02)) == 2 / 2**5  # five seeds cannot reach 0.05
    assert sign_flip(numpy.full(6, 0.02)) == 2 / 2**6
    assert sign_flip(numpy.zeros(6)) == 1


def test_the_interval_is_bca_by_its_formula() -> None:
    draws = numpy.random.default_rng(1).choice(DIFFERENCES, (200_000, len(DIFFERENCES))).mean(axis=1)
    mean = DIFFERENCES.mean()
    bias = stats.norm.ppf((draws < mean).mean() + (draws == mean).mean() / 2)
    left_out = numpy.array([numpy.delete(DIFFERENCES, i).mean() for i in range(len(DIFFERENCES))])
    spread = left_out.mean() - left_out
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = bias + stats.norm.ppf((0.025, 0.975))
    expected = numpy.quantile(draws, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    assert interval(DIFFERENCES) == pytest.approx(expected, abs=4e-4)
    assert interval(numpy.full(6, 0.02)) == (0.02, 0.02) and interval(DIFFERENCES[:2]) is None


def test_several_comparisons_are_corrected_as_holm_did_and_need_more_seeds() -> None:
    one = compare(DIFFERENCES, 0 * DIFFERENCES)
    found = correct([replace(one, p=p) for p in (0.01, 0.04, 0.03)])
    assert [each.p for each in found] == pytest.approx([0.03, 0.06, 0.06])
    assert [each.p for each in correct([replace(one, p=0.5), replace(one, p=0.9)])] == [1.0, 1.0]
    # 2 / 2^6 lies under 0.05, and 3 x 2 / 2^6 does not.
    assert [fewest(comparisons) for comparisons in (1, 2, 3)] == [6, 7, 7]
    six = compare(numpy.full(6, 0.82), numpy.full(6, 0.8))
    assert six.verdict == "improved"
    assert {each.verdict for each in correct([six] * 3)} == {"too few seeds to tell"}
    assert [each.needed for each in correct([six] * 3)] == [None] * 3


def test_a_difference_counts_where_interval_and_p_agree_and_seeds_suffice() -> None:
    base = numpy.full(8, 0.8)
    better = base + numpy.array([0.01, 0.02, 0.015, 0.012, 0.018, 0.011, 0.013, 0.02])
    assert compare(better, base).verdict == "improved" and compare(base, better).verdict == "worse"
    assert compare(better[:5], base[:5]).verdict == "too few seeds to tell"
    mixed = base + numpy.array([0.03, -0.02, 0.01, -0.01, 0.02, -0.015, 0.0, 0.01])
    found = compare(mixed, base)
    assert found.verdict == "no difference shown" and found.seeds == 8


@pytest.mark.parametrize("comparisons", [1, 3])
@pytest.mark.parametrize("sd", [0.0, 0.003, 0.0081, 0.014, 0.03, 0.2])
def test_the_seeds_for_a_point_are_those_of_the_paired_t_test(sd: float, comparisons: int) -> None:
    found = replace(compare(DIFFERENCES, 0 * DIFFERENCES), sd=sd, comparisons=comparisons)
    expected = 0.0
    if sd:
        expected = TTestPower().solve_power(effect_size=0.01 / sd, power=0.8, alpha=0.05 / comparisons)
    assert found.needed == max(fewest(comparisons), numpy.ceil(expected))


def test_so_many_seeds_show_a_point_in_four_studies_of_five() -> None:
    needed = replace(compare(DIFFERENCES, 0 * DIFFERENCES), sd=0.0081).needed
    assert needed == 8
    drawn = numpy.random.default_rng(0).normal(0.01, 0.0081, (400, needed))
    assert 0.78 < numpy.mean([sign_flip(one) < 0.05 for one in drawn]) < 0.9


def test_an_improvement_that_is_not_shown_for_other_pairs_says_so() -> None:
    better = numpy.array([0.01, 0.02, 0.015, 0.012, 0.018, 0.011, 0.013, 0.02])
    row = {**vars(compare(better, 0 * better)), "metric": "f1", "setting": "b", "against": "a", "verdict": "improved"}
    [held], [not_held] = (verdicts([{**row, "over_pairs": span}]) for span in ((0.001, 0.02), (-0.002, 0.02)))
    assert held.startswith("b against a: improved; +1.49 points of F1 over 8 seeds")
    assert not_held.startswith("b against a: improved on these pairs; on others not shown: ")
    assert "the interval is [-0.20, +2.00]; +1.49 points" in not_held


def score(metric: str, labels: NDArray[Any], predicted: NDArray[Any]) -> float:
    right = (labels & predicted).sum()
    return float((labels == predicted).mean() if metric == "accuracy" else 2 * right / (labels.sum() + predicted.sum()))


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_the_interval_over_seeds_and_pairs_is_that_of_a_plain_loop(metric: str) -> None:
    generator = numpy.random.default_rng(2)
    labels = generator.integers(0, 2, 60)
    ours, theirs = (numpy.clip(labels * 0.2 + generator.random((4, 60)) * 0.8, 0, 1) for _ in range(2))
    draws = []
    for _ in range(2000):
        seeds, pairs = generator.integers(0, 4, 4), generator.integers(0, 60, 60)
        scores = [
            numpy.mean([score(metric, labels[pairs], setting[seed][pairs] > 0.5) for seed in seeds])
            for setting in (ours, theirs)
        ]
        draws.append(scores[0] - scores[1])
    expected = numpy.percentile(draws, (2.5, 97.5))
    assert over_seeds_and_pairs(labels, ours, theirs, [metric])[metric] == pytest.approx(expected, abs=0.02)
    assert over_seeds_and_pairs(labels, ours, ours, [metric]) == {metric: (0, 0)}


def test_of_a_thousand_studies_of_equal_settings_at_most_five_percent_are_called_improved() -> None:
    generator, called = numpy.random.default_rng(3), 0
    for _ in range(1000):
        seeds = generator.normal(0.86, 0.008, 8)  # what both settings share
        ours, theirs = (seeds + generator.normal(0, 0.008, 8) for _ in range(2))
        called += compare(ours, theirs).verdict == "improved"
    assert called <= 50


def test_the_expected_best_of_a_search_is_that_of_all_draws() -> None:
    values = [0.3, 0.1, 0.4, 0.15]
    for size in (1, 2, 3):
        draws = [max(draw) for draw in itertools.product(values, repeat=size)]
        assert expected_best(values, size) == pytest.approx(numpy.mean(draws))


def test_the_share_of_better_seeds_counts_a_tie_as_half() -> None:
    assert compare(numpy.array([0.5, 0.6, 0.7, 0.8]), numpy.array([0.4, 0.6, 0.8, 0.7])).better == (2 + 0.5) / 4
