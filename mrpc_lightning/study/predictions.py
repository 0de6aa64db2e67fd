"""What runs say of pairs, as their tables have it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from mrpc_lightning.pairs.files import read_file
from mrpc_lightning.report.metrics import Array, Labels
from mrpc_lightning.study.plan import Unit

Pair = tuple[str, str, str, str]


@dataclass(frozen=True)
class Predictions:
    """What a run says of the pairs that it was scored on.

    Attributes:
        pairs: Number, both sentences and label of each pair.
        labels: 0 or 1, of shape (pairs,).
        positive: Probability of the positive class, of shape (pairs,).
    """

    pairs: tuple[Pair, ...]
    labels: Labels
    positive: Array

    @classmethod
    def read(cls, folder: Path, split: str) -> "Predictions":
        """Read a run's table: "validation" of the split that its epoch was chosen on, "test" of what `test` scored."""
        table = read_file(folder / f"{split}_predictions.csv", f"{split}_file").columns
        positive = [name for name in table if name.startswith("probability_")][1]
        labels = numpy.array([f"probability_{label}" == positive for label in table["label"]], dtype=numpy.int64)
        pairs = tuple(zip(*(table[name] for name in ("idx", "sentence1", "sentence2", "label")), strict=True))
        return cls(pairs, labels, numpy.array(table[positive], dtype=numpy.float64))


def left_out(units: Sequence[Unit]) -> dict[Pair, float]:
    """Return the probability that each training pair has from the run that had left it out; from several their mean."""
    shares: dict[Pair, list[float]] = {}
    for unit in units:
        own = Predictions.read(unit.run.folder, "validation")
        for pair, share in zip(own.pairs, own.positive.tolist(), strict=True):
            shares.setdefault(pair, []).append(share)
    return {pair: float(numpy.mean(found)) for pair, found in shares.items()}
