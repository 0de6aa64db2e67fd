"""The report of a run or of an evaluation: one HTML file that needs nothing else, its pictures, and its predictions."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
from datasets import Dataset
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from mrpc_lightning.origin import describe
from mrpc_lightning.report import overlap, plots, probes, subsets
from mrpc_lightning.report.curves import Diagnosis
from mrpc_lightning.report.metrics import COUNTS, TITLES, Array, Scored, number


def render(
    scored: Scored,
    content: Mapping[str, Any],
    label_names: Sequence[str],
    title: str,
    pictures: Mapping[str, Figure],
    diagnosis: Diagnosis | None,
    config: str,
    probed: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the page.

    Args:
        scored: The scored pairs.
        content: What metrics.json holds.
        label_names: Names of the negative and of the positive class.
        title: What was scored.
        pictures: What `plots.draw` returned.
        diagnosis: What the curves say; None where there are none.
        config: The run's configuration as YAML; empty where there is no run.
        probed: What `probes.run` returned.
    """
    in_table = ("baseline_", "overlap_")
    hidden = {*TITLES, *COUNTS, "diagnosis", *(name for name in content if name.startswith(in_table))}
    plain = {name: value for name, value in content.items() if not isinstance(value, dict | list)}
    return fill(
        "page.html.jinja",
        scored=scored,
        content=content,
        label_names=label_names,
        title=title,
        ancestors=list(map(describe, content.get("ancestors", []))),
        pictures={name: plots.svg(figure) for name, figure in pictures.items()},
        diagnosis=diagnosis,
        config=config,
        rows=_rows(content, label_names[1]),
        parts={
            "words in the pair": _parts(scored, subsets.length, "{:.0f}"),
            "word overlap": _parts(scored, overlap.share, "{:.0%}"),
        },
        mistakes=_mistakes(scored, label_names),
        probed=[_probe(name, found) for name, found in probed.items()],
        probe_limit=probes.PAIRS,
        facts={name: value for name, value in plain.items() if name not in hidden},
    )


def fill(template: str, *folders: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: Its template.
        folders: Folders of this package where templates lie, beside `report`.
        values: What the template shows.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("mrpc_lightning", folder) for folder in ("report", *folders)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(template).render(values)


def _rows(content: Mapping[str, Any], positive: str) -> list[dict[str, Any]]:
    """Return each metric with its interval and baselines: for accuracy the larger class, else the positive one."""
    share = (content["true_positives"] + content["false_negatives"]) / content["pairs"]
    baselines = {
        "accuracy": (content["baseline_accuracy"], content["baseline_accuracy_class"]),
        "f1": (content["baseline_f1"], positive),
        "precision": (share, positive),
        "recall": (1.0 if share else None, positive),
        "average_precision": (share or None, positive),
        "roc_auc": (None if content["roc_auc"] is None else 0.5, positive),
        "matthews": (None if content["matthews"] is None else 0.0, positive),
    }
    return [
        {
            "title": title,
            "value": content[name],
            "bounds": content["intervals"][name],
            "baseline": baselines.get(name),
            "overlap": content.get(f"overlap_{name}"),
        }
        for name, title in TITLES.items()
    ]


def _parts(scored: Scored, value_of: Callable[[str, str], float], form: str) -> list[dict[str, Any]]:
    values = numpy.array(list(map(value_of, scored.first, scored.second)), dtype=numpy.float64)
    found = subsets.parts(scored, values)
    return [{**part, **{name: form.format(part[name]) for name in ("low", "high")}} for part in found]


def _mistakes(scored: Scored, label_names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "idx": scored.idx[row],
            "label": label_names[scored.labels[row]],
            "prediction": label_names[scored.predicted[row]],
            "probability": float(scored.probabilities[row].max()),
            "sentences": subsets.differences(scored.first[row], scored.second[row]),
        }
        for row in subsets.mistakes(scored)
    ]


def _probe(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    title, changes = probes.PROBES[name]
    examples = []
    for one in found["examples"]:
        first, second = one["changed"]
        marked = subsets.differences(one["original"][1], second)[1] if changes else [(second, False)]
        right = probes.as_expected(name, one["after"])
        examples.append({**one, "right": right, "sentences": [[(first, False)], marked]})
    return {**found, "title": title, "changes": changes, "examples": examples}


def join(pairs: Dataset, rows: Sequence[int] | Any, probabilities: Array) -> Scored:
    """Bring a split's pairs and what `scoring.score` returned together.

    Args:
        pairs: The split's pairs.
        rows: The rows that were scored.
        probabilities: Their probabilities, of shape (pairs, 2), or (pairs, 2 orders, 2), whose mean counts.
    """
    chosen, both = pairs.select(rows), probabilities.ndim == 3
    return Scored(
        numpy.array(chosen["label"][:], dtype=numpy.int64),
        probabilities.mean(axis=1) if both else probabilities,
        probabilities[:, :, 1] if both else None,
        chosen["sentence1"][:],
        chosen["sentence2"][:],
        chosen["idx"][:],
    )


def predictions(scored: Scored, label_names: Sequence[str]) -> str:
    """Return the scored pairs as CSV, from which all metrics of a report can be computed again."""
    table, swapped = io.StringIO(newline=""), scored.orders is not None
    writer = csv.writer(table)
    writer.writerow(
        [
            *("idx", "sentence1", "sentence2", "label", "prediction"),
            *(f"probability_{name}" for name in label_names),
            *[f"swapped_probability_{label_names[1]}"] * swapped,
        ]
    )
    columns = [scored.idx, scored.first, scored.second, scored.labels, scored.predicted, scored.probabilities]
    for row, (idx, first, second, label, predicted, shares) in enumerate(zip(*columns, strict=True)):
        every = [*shares, *([] if scored.orders is None else scored.orders[row, 1:])]
        writer.writerow([idx, first, second, label_names[label], label_names[predicted], *(f"{p:.9g}" for p in every)])
    return table.getvalue()
