"""The report of a run or of an evaluation: one HTML file that needs nothing else, and its pictures."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from datasets import Dataset
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mrpc_lightning.model import COUNTS
from mrpc_lightning.report import plots
from mrpc_lightning.report import subsets as analysis
from mrpc_lightning.report.curves import Diagnosis, diagnose

TITLES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "average_precision": "average precision",
    "loss": "loss",
    "calibration_error": "calibration error",
}
# In metrics.json, but no facts about how a figure came about.
NO_FACTS = (
    "accuracy",
    "f1",
    "loss",
    *COUNTS,
    "warnings",
    "epochs",
    "intervals",
    "one_order",
    "examples_in_training",
    "diagnosis",
)


@dataclass(frozen=True)
class Report:
    """What a report is made of.

    Attributes:
        scored: The scored pairs.
        content: What metrics.json holds.
        label_names: Names of the negative and of the positive class.
        title: What was scored.
        config: The run's configuration as YAML; empty where there is no run.
    """

    scored: analysis.Scored
    content: Mapping[str, Any]
    label_names: Sequence[str]
    title: str
    config: str

    @property
    def epochs(self) -> list[Mapping[str, float]]:
        """The run's epochs; none in an evaluation."""
        return list(self.content.get("epochs", []))

    def draw(self) -> dict[str, Figure]:
        """Draw the pictures."""
        return plots.draw(self.scored, self.epochs, self.content.get("epoch"), self.label_names)

    def write(self, path: Path, pictures: Mapping[str, Figure]) -> None:
        """Write the page."""
        environment = Environment(
            loader=PackageLoader("mrpc_lightning", "report"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        values = {
            "report": self,
            "symmetric": not numpy.array_equal(self.scored.positive, self.scored.given),
            "pictures": {name: plots.svg(figure) for name, figure in pictures.items()},
            "figures": self.figures(),
            "diagnosis": self.diagnosis(),
            "parts": {
                "words in the pair": self._parts(analysis.length, "{:.0f}"),
                "word overlap": self._parts(analysis.overlap, "{:.0%}"),
            },
            "mistakes": self._mistakes(),
            "orders": analysis.order_matters(self.scored),
            "facts": {
                name: value
                for name, value in self.content.items()
                if name not in NO_FACTS and not isinstance(value, dict | list) and not name.startswith("baseline")
            },
        }
        write_text(path, environment.get_template("page.html.jinja").render(values))

    def figures(self) -> list[dict[str, Any]]:
        """Return each figure with its interval, beside that of answering "positive" to everything."""
        share = float(self.scored.labels.mean())
        baseline = {
            "accuracy": share,
            "f1": 2 * share / (1 + share),
            "precision": share,
            "recall": 1.0,
            "average_precision": share,
        }
        found = analysis.measure(self.scored.labels, self.scored.positive)
        bounds = self.content["intervals"]
        return [
            {
                "title": title,
                # As the final table has it; "precision" is the run's number format there.
                "value": self.content[name] if name in ("accuracy", "f1", "loss") else float(found[name][0]),
                "bounds": bounds[name],
                "baseline": baseline.get(name),
            }
            for name, title in TITLES.items()
        ]

    def diagnosis(self) -> Diagnosis | None:
        """Say what the curves say; None where there are none."""
        return diagnose(self.epochs, self.content, self.label_names) if self.epochs else None

    def _parts(self, measure: Any, form: str) -> list[dict[str, Any]]:
        values = numpy.array([measure(*pair) for pair in zip(self.scored.first, self.scored.second, strict=True)])
        return [
            {**part, "low": form.format(part["low"]), "high": form.format(part["high"])}
            for part in analysis.parts(self.scored, values.astype(numpy.float64))
        ]

    def _mistakes(self) -> list[dict[str, Any]]:
        found = []
        for row in analysis.mistakes(self.scored):
            first, second = analysis.differences(self.scored.first[row], self.scored.second[row])
            predicted = int(self.scored.predicted[row])
            positive = float(self.scored.positive[row])
            found.append(
                {
                    "idx": self.scored.idx[row],
                    "label": self.label_names[int(self.scored.labels[row])],
                    "prediction": self.label_names[predicted],
                    "probability": positive if predicted else 1 - positive,
                    "sentences": (first, second),
                }
            )
        return found


def scored_pairs(pairs: Dataset, answers: Mapping[int, Any], symmetric: bool) -> analysis.Scored:
    """Put pairs and what was answered together.

    Args:
        pairs: A split's pairs.
        answers: What `Answers.collect` returned.
        symmetric: Whether the mean of both orders counts, or the order in which sentences are given.
    """
    rows = list(answers)
    # As the model's own argmax: where both classes are equal, the negative one.
    positive = numpy.array([answers[row] for row in rows], dtype=numpy.float64)[:, :, 1]
    given, swapped = positive[:, 0], positive[:, 1]
    chosen = pairs.select(rows)
    labels: NDArray[numpy.int64] = numpy.array(chosen["label"][:], dtype=numpy.int64)
    return analysis.Scored(
        labels,
        positive.mean(axis=1) if symmetric else given,
        given,
        swapped,
        chosen["sentence1"][:],
        chosen["sentence2"][:],
        chosen["idx"][:],
    )


def write_answers(path: Path, scored: analysis.Scored, label_names: Sequence[str]) -> None:
    """Write scored pairs as CSV, from which all of a report's figures can be computed again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    negative, positive = label_names
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                *("idx", "sentence1", "sentence2", "label", "prediction"),
                *(f"probability_{negative}", f"probability_{positive}", f"swapped_probability_{positive}"),
            ]
        )
        for row in range(len(scored.labels)):
            share = float(scored.positive[row])
            names = [label_names[int(value[row])] for value in (scored.labels, scored.predicted)]
            shares = [f"{value:.9g}" for value in (1 - share, share, scored.swapped[row])]
            writer.writerow([scored.idx[row], scored.first[row], scored.second[row], *names, *shares])
    temporary.replace(path)
