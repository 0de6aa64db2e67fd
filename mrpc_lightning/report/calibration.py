"""A threshold and a temperature that a study found out of fold, for the predictions of its runs."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from mrpc_lightning.errors import InputError
from mrpc_lightning.report.metrics import Array, Labels, both, measure, plain
from mrpc_lightning.run.run import Run

FILE = "calibration.json"  # of a run, and of a folder that `export` wrote


class Calibration(NamedTuple):
    """How probabilities become predictions.

    Attributes:
        threshold: A pair is positive where its probability, with the temperature, is above it.
        temperature: What logits are divided by.
    """

    threshold: float
    temperature: float

    def __str__(self) -> str:
        """Say which they are; a temperature of 1 changes nothing."""
        changed = f" and temperature {self.temperature:.2f}" if self.temperature != 1 else ""
        return f"threshold {self.threshold:.3f}{changed}"

    @classmethod
    def at(cls, threshold: float | None, calibrated: bool = False) -> "Calibration | None":
        """Return what a person asks for with a threshold; None without one.

        Raises:
            InputError: If it is no probability between 0 and 1, or comes together with `calibrated`.
        """
        if threshold is not None and calibrated:
            raise InputError("--threshold: --calibrated brings a threshold; leave one of them out")
        if threshold is not None and not 0 < threshold < 1:
            raise InputError(f"--threshold {threshold:g}: give a probability between 0 and 1")
        return None if threshold is None else cls(threshold, temperature=1.0)

    @classmethod
    def read(cls, folder: Path) -> "Calibration | None":
        """Return what a run or a model folder has; None if it has none.

        Raises:
            InputError: If it is damaged.
        """
        found = Run(folder).read(FILE)
        if not found and not (folder / FILE).exists():
            return None
        values: list[Any] = [found.get(name) for name in cls._fields]
        if not all(isinstance(value, float) and math.isfinite(value) and value > 0 for value in values):
            raise InputError(f"{folder / FILE}: damaged; delete it, or let `study --folds` write it again")
        return cls(*values)

    @classmethod
    def of(cls, checkpoint: Path) -> "Calibration | None":
        """Return what belongs to a checkpoint: it must be its run's best.

        Raises:
            InputError: If it is damaged.
        """
        run = Run.of(checkpoint)
        return cls.read(run.folder) if run.best == checkpoint else None

    def apply(self, probabilities: Array) -> tuple[NDArray[numpy.bool_], Array]:
        """Return which pairs are positive, of shape (pairs,), and their probabilities with the temperature."""
        scaled = self.scale(probabilities)
        return scaled[:, 1] > self.threshold, scaled

    def scale(self, probabilities: Array) -> Array:
        """Return probabilities of both classes with the temperature, of shape (pairs, 2)."""
        if self.temperature == 1:
            return probabilities
        with numpy.errstate(divide="ignore"):
            logits = numpy.log(probabilities) / self.temperature
        shares = numpy.exp(logits - logits.max(axis=1, keepdims=True))
        scaled: Array = shares / shares.sum(axis=1, keepdims=True)
        return scaled

    def score(self, labels: Labels, probabilities: Array) -> Mapping[str, Any]:
        """Return metrics of the answers with the threshold, and the loss with the temperature, with both of them."""
        chosen, scaled = self.apply(probabilities)
        found = plain(measure(labels, both(chosen.astype(numpy.float64))))
        loss = plain(measure(labels, scaled))["loss"]
        chosen_by = {name: found[name] for name in ("accuracy", "f1", "precision", "recall")}
        if self.temperature == 1:
            return {**chosen_by, "threshold": self.threshold}
        return {**chosen_by, "loss": loss, **self._asdict()}
