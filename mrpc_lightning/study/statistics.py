"""What the scores of several seeds are worth: summaries, paired differences, their intervals and p-values.

The protocol is that of arXiv 2511.19794: a difference counts where the interval of the seeds' differences and an exact
sign-flip test agree. Scores are shares, from 0 to 1; a point is 0.01.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from scipy import stats

from mrpc_lightning.report.metrics import measure

Array = NDArray[numpy.float64]
FEWEST = 6  # seeds: with five, no p of a two-sided sign-flip test lies below 2 / 2**5 = 0.0625
LEVEL = 0.05
RESAMPLES = 9999
POINT = 0.01


@dataclass(frozen=True)
class Difference:
    """How much better one setting is than another, over the same seeds.

    Attributes:
        seeds: Number of seeds that both have.
        mean: Mean of the differences.
        interval: 95 % BCa bootstrap interval of the mean, over seeds; None below three seeds.
        over_pairs: 95 % percentile interval over seeds and pairs together; None where pairs are not known.
        p: Of the exact two-sided sign-flip test; corrected by `holm` where there are several comparisons.
        share: Share of seeds on which it is better; a tie counts half.
        needed: Seeds that would show a difference of a point, with a power of 80 %.
    """

    seeds: int
    mean: float
    interval: tuple[float, float] | None
    over_pairs: tuple[float, float] | None
    p: float
    share: float
    needed: int

    @property
    def verdict(self) -> str:
        """What may be said: "improved", "worse", "no difference shown" or "too few seeds to tell"."""
        if self.seeds < FEWEST or self.interval is None:
            return "too few seeds to tell"
        if self.p >= LEVEL or self.interval[0] <= 0 <= self.interval[1]:
            return "no difference shown"
        return "improved" if self.mean > 0 else "worse"


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


def compare(ours: Array, theirs: Array, over_pairs: tuple[float, float] | None = None) -> Difference:
    """Compare the scores of two settings on the same seeds, in the same order, of shape (seeds,)."""
    differences = ours - theirs
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else math.inf
    return Difference(
        seeds=len(differences),
        mean=float(differences.mean()),
        interval=interval(differences),
        over_pairs=over_pairs,
        p=sign_flip(differences),
        share=float(numpy.mean((differences > 0) + 0.5 * (differences == 0))),
        # The two quantiles of a test at 5 % with a power of 80 %: 1.96 + 0.84.
        needed=max(FEWEST, math.ceil((2.8 * spread / POINT) ** 2)) if math.isfinite(spread) else 0,
    )


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


def holm(ps: Sequence[float]) -> list[float]:
    """Correct the p-values of several comparisons (Holm 1979), in their order."""
    corrected, largest = [0.0] * len(ps), 0.0
    for place, number in enumerate(numpy.argsort(ps, kind="stable")):
        largest = max(largest, min(1.0, (len(ps) - place) * ps[number]))
        corrected[number] = largest
    return corrected


def over_seeds_and_pairs(
    labels: NDArray[numpy.int64], ours: Array, theirs: Array, metric: str, resamples: int = 2000
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean difference over seeds and pairs, resampled together.

    The metric is computed anew for each seed and each draw of pairs: it says what to expect with other seeds on other
    pairs of this kind.

    Args:
        labels: 0 or 1, of shape (pairs,).
        ours: Probabilities of the positive class of one setting, of shape (seeds, pairs).
        theirs: Those of the other setting.
        metric: "accuracy" or "f1".
        resamples: How often to draw.
    """
    generator, (seeds, pairs) = numpy.random.default_rng(0), ours.shape
    weights = generator.multinomial(pairs, numpy.full(pairs, 1 / pairs), size=resamples).astype(numpy.float64)
    scores = [[_scores(labels, one, weights, metric) for one in setting] for setting in (ours, theirs)]
    differences = numpy.array(scores[0]) - numpy.array(scores[1])  # (seeds, resamples)
    drawn = generator.integers(0, seeds, (seeds, resamples))
    means = numpy.nanmean(numpy.take_along_axis(differences, drawn, axis=0), axis=0)
    low, high = numpy.nanpercentile(means, (2.5, 97.5))
    return float(low), float(high)


def _scores(labels: NDArray[numpy.int64], positive: Array, weights: Array, metric: str) -> Array:
    return measure(labels, numpy.stack((1 - positive, positive), axis=1), weights)[metric]
