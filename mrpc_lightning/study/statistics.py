"""What the scores of several seeds are worth: summaries, paired differences, their intervals and p-values.

The protocol is that of arXiv 2511.19794: a difference counts where the interval of the seeds' differences and a
sign-flip test agree. Scores are shares, from 0 to 1; a point is 0.01.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy
from scipy import stats

from mrpc_lightning.report.metrics import Array, Labels, both, measure, percentiles

LEVEL, POWER, POINT = 0.05, 0.8, 0.01
RESAMPLES = 9999


@dataclass(frozen=True)
class Difference:
    """How much better one setting is than another, over the same seeds.

    Attributes:
        seeds: Number of seeds.
        mean: Mean of the differences.
        interval: 95 % BCa bootstrap interval of the mean, over seeds; None below three seeds.
        p: Of the two-sided sign-flip test; `correct` corrects it for the number of comparisons.
        sd: Sample standard deviation of the differences.
        better: Share of the seeds with which this setting is better; a tie is half a seed.
        differ: Seeds on which the two differ. Ties say nothing: where few seeds differ, no p can be small enough.
        comparisons: How many comparisons this one is among.
    """

    seeds: int
    mean: float
    interval: tuple[float, float] | None
    p: float
    sd: float
    better: float
    differ: int
    comparisons: int = 1

    @property
    def needed(self) -> int | None:
        """Seeds that would show a difference of a point, with a power of 80 %; None if these are too few to say.

        The power is that of the paired t-test, which that of the sign-flip test is close to.
        """
        if self.seeds < fewest(self.comparisons):
            return None
        level = LEVEL / self.comparisons
        quantiles = float(stats.norm.ppf((1 - level / 2, POWER)).sum())  # of many seeds; of few it takes more
        seeds = max(fewest(self.comparisons), math.ceil((quantiles * self.sd / POINT) ** 2))
        while self.sd and power(seeds, POINT / self.sd, level) < POWER:
            seeds += 1
        return seeds

    @property
    def verdict(self) -> str:
        """What may be said: "improved", "worse", "no difference shown" or "too few seeds to tell"."""
        if self.seeds < fewest(self.comparisons) or 0 < self.differ < fewest(self.comparisons) or self.interval is None:
            return "too few seeds to tell"
        if self.p >= LEVEL or self.interval[0] <= 0 <= self.interval[1]:
            return "no difference shown"
        return "improved" if self.mean > 0 else "worse"


def fewest(comparisons: int) -> int:
    """Return the fewest seeds with which a corrected p can lie under 0.05: that of n sign flips is at least 2 / 2^n."""
    return math.floor(math.log2(2 * comparisons / LEVEL)) + 1


def power(seeds: int, effect: float, level: float) -> float:
    """Return the power of the two-sided paired t-test.

    Args:
        seeds: Number of seeds.
        effect: The mean difference, in standard deviations of the differences.
        level: Below which p counts.
    """
    limit = stats.t.ppf(1 - level / 2, seeds - 1)
    return float(stats.nct.sf(limit, seeds - 1, math.sqrt(seeds) * effect))


def summarize(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean, sample standard deviation (None of one value), median, minimum and maximum."""
    found = numpy.asarray(values, dtype=numpy.float64)
    return {
        "mean": float(found.mean()),
        "sd": float(found.std(ddof=1)) if len(found) > 1 else None,
        "median": float(numpy.median(found)),
        "min": float(found.min()),
        "max": float(found.max()),
    }


def compare(ours: Array, theirs: Array) -> Difference:
    """Compare the scores of two settings on the same seeds, two or more, in the same order; of shape (seeds,)."""
    found = ours - theirs
    better, differ = float((numpy.sign(found) + 1).mean() / 2), int(numpy.count_nonzero(found))
    sd = float(found.std(ddof=1))
    return Difference(len(found), float(found.mean()), interval(found), sign_flip(found), sd, better, differ)


def correct(differences: Sequence[Difference]) -> list[Difference]:
    """Return several comparisons with their p-values corrected (Holm 1979), in their order."""
    ps, corrected, largest = [one.p for one in differences], {}, 0.0
    for place, number in enumerate(numpy.argsort(ps, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(ps) - place) * ps[number]))
        corrected[number] = replace(differences[number], p=largest, comparisons=len(ps))
    return [corrected[number] for number in range(len(ps))]


def expected_best(values: Sequence[float], size: int) -> float:
    """Return the expected largest of `size` values drawn from these with replacement (Dodge et al. 2019, section 3).

    It says what a search of so many settings would have found; the largest of all that were tried says more than that.
    """
    ranks = numpy.arange(len(values) + 1) / len(values)
    return float(numpy.sort(values) @ numpy.diff(ranks**size))


def interval(differences: Array) -> tuple[float, float] | None:
    """Return the 95 % BCa bootstrap interval of the mean (Efron 1987); a point where all values are the same."""
    if len(differences) < 3:
        return None
    if numpy.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    found = stats.bootstrap(
        (differences,), numpy.mean, n_resamples=RESAMPLES, method="BCa", rng=numpy.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


def sign_flip(differences: Array) -> float:
    """Return the p of the two-sided sign-flip test of the mean: exact up to 13 seeds, else of 9,999 random flips."""
    if not differences.any():
        return 1.0
    found = stats.permutation_test(
        (differences,),
        numpy.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=numpy.random.default_rng(0),
    )
    return float(found.pvalue)


def over_seeds_and_pairs(
    labels: Labels, ours: Array, theirs: Array, names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile interval of each metric's mean difference over seeds and pairs, resampled together.

    The metrics are computed anew for each seed and each draw of pairs: the interval says what to expect with other
    seeds on other pairs of this kind. Of many pairs fewer resamples are drawn, 200 at the least.

    Args:
        labels: 0 or 1, of shape (pairs,).
        ours: Probabilities of the positive class of one setting, of shape (seeds, pairs).
        theirs: Those of the other setting.
        names: Names of metrics, as `measure` has them.
    """
    generator, (seeds, pairs) = numpy.random.default_rng(0), ours.shape
    resamples = int(numpy.clip(1e7 / pairs, 200, 2000))
    weights = generator.multinomial(pairs, numpy.full(pairs, 1 / pairs), size=resamples).astype(numpy.float64)
    drawn, bounds = generator.integers(0, seeds, (seeds, resamples)), {}
    scores = [[measure(labels, both(one), weights) for one in setting] for setting in (ours, theirs)]
    for name in names:
        first, second = (numpy.array([one[name] for one in setting]) for setting in scores)  # (seeds, resamples)
        if span := percentiles(numpy.take_along_axis(first - second, drawn, axis=0).mean(axis=0)):
            bounds[name] = span
    return bounds
