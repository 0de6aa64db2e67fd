"""Runs side by side, over the pairs that all of them scored."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from scipy import stats

from mrpc_lightning.errors import InputError
from mrpc_lightning.report.metrics import Array, Labels, both, measure, plain
from mrpc_lightning.run.run import LOGS, Run
from mrpc_lightning.study import results, statistics
from mrpc_lightning.study.predictions import Pair, Predictions
from mrpc_lightning.study.results import METRICS
from mrpc_lightning.study.tables import Rows, bounds, of_differences, points, spread, verdicts
from mrpc_lightning.text import as_markdown, count, printable, shorten

SHOWN = 10  # pairs on which two sides differ


class Side(NamedTuple):
    """One run, or several that are taken for seeds of one setting.

    Attributes:
        name: What the person called it.
        runs: The runs.
        positive: Probability of the positive class of each pair that is compared, of shape (runs, pairs).
    """

    name: str
    runs: list[Run]
    positive: Array

    @property
    def seeds(self) -> list[Any]:
        """The seed of each run."""
        return [run.metrics.get("seed") for run in self.runs]


def compare(names: Sequence[str], split: str) -> dict[str, Any]:
    """Compare the first of several sides with each of the others.

    Two runs are compared over pairs: accuracy by McNemar's exact test, which asks whether more of the pairs that one of
    them alone gets right are the one's; F1 by a paired bootstrap. Several runs a side are compared seed by seed, as
    `study` does.

    Args:
        names: For each side a run's folder, or a folder with several runs.
        split: "validation", what `fit` scored; or "test", what `test` scored last.

    Returns:
        `sides`, each with its `name`, `runs` and metrics; `pairs`, how many were compared; `comparisons`; `differing`,
        for each other side the pairs of which it predicts something else than the first; and `warnings`.

    Raises:
        InputError: If a side has no such predictions or is given twice, no pair is common to all, or the sides share
            fewer than two seeds.
    """
    if len({Path(name).resolve() for name in names}) < len(names):
        raise InputError("compare: the same folder is given twice")
    runs = [find(name) for name in names]
    tables = [[read(run, split) for run in side] for side in runs]
    known = [{pair[1:]: row for row, pair in enumerate(table.pairs)} for side in tables for table in side]
    pairs = [pair for pair in tables[0][0].pairs if all(pair[1:] in rows for rows in known)]
    if not pairs:
        raise InputError(f"compare: no pair was scored by all of {', '.join(names)}; let `test` score the same ones")
    labels = numpy.array([tables[0][0].labels[known[0][pair[1:]]] for pair in pairs], dtype=numpy.int64)
    places = iter(numpy.array([rows[pair[1:]] for pair in pairs]) for rows in known)
    stacked = [numpy.stack([table.positive[next(places)] for table in side]) for side in tables]
    sides = [Side(*one) for one in zip(names, runs, stacked, strict=True)]
    warnings = results.name_differences([run.metrics for side in runs for run in side])
    if (most := max(len(table.pairs) for side in tables for table in side)) > len(pairs):
        warnings.append(f"{len(pairs):,} pairs were scored by all; some scored up to {most:,}")
    for side in sides:
        if collapsed := sum(len(numpy.unique(one > 0.5)) == 1 for one in side.positive):
            which = f"{collapsed} of its {len(side.runs)} runs " * (len(side.runs) > 1)
            verb = "gives" if collapsed == 1 else "give"
            warnings.append(f"{side.name}: {which}{verb} every pair the same answer: collapsed to one class")
    if all(len(side.runs) == 1 for side in sides):
        comparisons = over_pairs(sides, labels)
        warnings.append("one run a side: another seed may turn this round; to compare recipes, give folders of runs")
    else:
        comparisons = over_seeds(sides, labels, pairs)
    differing = {side.name: differing_pairs(sides[0], side, labels, pairs) for side in sides[1:]}
    found = [{"name": one.name, "runs": [str(run.folder) for run in one.runs], **scores(one, labels)} for one in sides]
    return {
        "sides": found,
        "pairs": len(pairs),
        "comparisons": comparisons,
        "differing": differing,
        "warnings": warnings,
    }


def find(name: str) -> list[Run]:
    """Return the runs that a person means: one, or those of a folder.

    Raises:
        InputError: If there is none.
    """
    folder = Path(name)
    if not folder.exists() and (LOGS / name).is_dir():  # as --run names it
        folder = LOGS / name
    if not folder.is_dir():
        what = "is a file; a run's predictions are those of its best checkpoint" if folder.exists() else "is not there"
        raise InputError(f"{name}: {what}; give a run's folder, or a folder of runs")
    if (folder / "config.yaml").is_file():
        return [Run(folder)]
    inside = sorted(path.parent for path in folder.glob("*/config.yaml"))
    if not inside:
        deeper = sorted({str(path.parents[1]) for path in folder.glob("*/*/config.yaml")})
        hint = f"holds folders of runs; give these: {' '.join(deeper)}" if deeper else "is no run, and holds none"
        raise InputError(f"{name}: {hint}")
    return [*map(Run, inside)]


def read(run: Run, split: str) -> Predictions:
    """Return what a run said of a split.

    Raises:
        InputError: If it has no such table, or one that a run does not write.
    """
    if not (run.folder / f"{split}_predictions.csv").is_file():
        how = "let `fit` end" if split == "validation" else "run `test`"
        raise InputError(f"{run.folder}: has no {split}_predictions.csv; {how}, or give another --split")
    try:
        return Predictions.read(run.folder, split)
    except (LookupError, ValueError) as error:
        raise InputError(f"{run.folder}/{split}_predictions.csv: is not as a run writes it; score it anew") from error


def scores(side: Side, labels: Labels) -> dict[str, Any]:
    """Return accuracy and F1 of a side: summaries over its runs."""
    found = [plain(measure(labels, both(one))) for one in side.positive]
    return {name: statistics.summarize([one[name] or 0 for one in found]) for name in METRICS}


def over_pairs(sides: Sequence[Side], labels: Labels) -> list[dict[str, Any]]:
    """Compare single runs with the first one, over pairs."""
    rows = []
    first = sides[0].positive
    for side in sides[1:]:
        spans = statistics.over_seeds_and_pairs(labels, side.positive, first, tuple(METRICS))
        right = [(one[0] > 0.5) == labels for one in (first, side.positive)]
        only_first, only_other = (int((one & ~other).sum()) for one, other in (right, right[::-1]))
        p = float(stats.binomtest(only_other, only_first + only_other).pvalue) if only_first + only_other else 1.0
        values = [plain(measure(labels, both(one[0]))) for one in (first, side.positive)]
        for metric in METRICS:
            mean, interval = (values[1][metric] or 0) - (values[0][metric] or 0), spans.get(metric)
            shown = p < statistics.LEVEL if metric == "accuracy" else bool(interval) and not between(interval)
            verdict = ("better" if mean > 0 else "worse") if shown and mean else "no difference shown"
            row = {"metric": metric, "setting": side.name, "against": sides[0].name, "mean": mean, "interval": interval}
            row |= {"p": p, "only_first": only_first, "only_other": only_other} if metric == "accuracy" else {}
            rows.append({**row, "verdict": verdict})
    return rows


def between(interval: Any) -> bool:
    """Say whether an interval holds 0."""
    return bool(interval[0] <= 0 <= interval[1])


def over_seeds(sides: Sequence[Side], labels: Labels, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Compare runs of several seeds with those of the first side, seed by seed.

    Raises:
        InputError: If two sides share fewer than two seeds, or a side has a seed twice.
    """
    settings, scored = [], {}
    if single := next((side.name for side in sides if len(side.runs) == 1), None):
        raise InputError(f"{single}: is one run, and another side has several; give one run a side, or several")
    for side in sides:
        runs = []
        for run, seed, positive in zip(side.runs, side.seeds, side.positive, strict=True):
            scored[str(run.folder)] = Predictions(tuple(pairs), labels, positive)
            runs.append({"seed": seed, "folder": str(run.folder), **plain(measure(labels, both(positive)))})
        if len({*side.seeds}) < len(side.seeds):
            twice = [run["folder"] for run in runs if side.seeds.count(run["seed"]) > 1]
            raise InputError(f"{side.name}: {' and '.join(twice)} have the same seed; give one run a seed")
        if len({*side.seeds} & {*sides[0].seeds}) < 2:
            other = sides[0].name
            raise InputError(f"{side.name}: shares fewer than two seeds with {other}; give runs of the same seeds")
        settings.append({"name": side.name, "runs": runs, "failed": {}})
    return results.compare(settings, scored)


def differing_pairs(first: Side, other: Side, labels: Labels, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the pairs of which two sides predict different classes, by the mean probability of their runs."""
    one, two = first.positive.mean(axis=0), other.positive.mean(axis=0)
    rows = numpy.flatnonzero((one > 0.5) != (two > 0.5))
    rows = rows[numpy.argsort(-numpy.abs(one - two)[rows], kind="stable")]
    return [
        {
            "idx": pairs[row][0],
            "label": pairs[row][3],
            "right": first.name if (one[row] > 0.5) == labels[row] else other.name,
            "probabilities": [float(one[row]), float(two[row])],
            "sentences": pairs[row][1:3],
        }
        for row in rows.tolist()
    ]


def render(found: dict[str, Any], kind: str) -> str:
    """Write a comparison as "text" or as "json"."""
    if kind == "json":
        return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    rows: Rows = [["", "runs", "F1", "accuracy"]]
    rows += [[one["name"], str(len(one["runs"])), spread(one["f1"]), spread(one["accuracy"])] for one in found["sides"]]
    parts = [as_markdown(rows)]
    if seeds := "seeds" in found["comparisons"][0]:
        parts.append(as_markdown(of_differences(found["comparisons"])))
    else:
        header = ["against the first", "", "difference", "over pairs", "p", "right alone: first, other", "verdict"]
        table: Rows = [header]
        for one in found["comparisons"]:
            p = "-" if "p" not in one else "< 0.001" if one["p"] < 0.001 else f"{one['p']:.3f}"
            alone = f"{one['only_first']:,}, {one['only_other']:,}" if "p" in one else "-"
            numbers = [points(one["mean"], "{:+.2f}"), bounds(one["interval"]), p, alone]
            table.append([one["setting"], METRICS[one["metric"]], *numbers, one["verdict"]])
        parts.append(as_markdown(table))
    lines = [f"{count(found['pairs'], 'pair')}; metrics in points; intervals of 95 %"]
    for name, differing in found["differing"].items():
        several = ", those furthest apart first:" if len(differing) > 1 else ":" if differing else ""
        what = "by the mean probability of its runs, " * seeds + name
        lines.append(f"{what} predicts another class than the first: {count(len(differing), 'pair')}{several}")
        for one in differing[:SHOWN]:
            sentences = " | ".join(shorten(sentence) for sentence in one["sentences"])
            lines.append(f"  idx {one['idx']}, labelled {one['label']}: {one['right']} is right: {sentences}")
    if seeds:
        lines += verdicts(found["comparisons"])
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    return "\n".join([*parts, *map(printable, lines)]) + "\n"
