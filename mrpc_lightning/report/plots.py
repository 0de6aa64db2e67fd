"""The pictures of a report: as SVG, whose colors follow the page, and as PNG."""

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mrpc_lightning.report.metrics import Array, Scored, bin_of, curve, measure

# What is drawn in these colors takes the page's in an SVG, light or dark.
INK, GRID, TRAINING, VALIDATION = "#1f2328", "#d0d7de", "#9a6700", "#0969da"
VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)", TRAINING: "var(--training)", VALIDATION: "var(--validation)"}
POINTS = 2000  # more than these are drawn as pixels, or thinned out: a page of a million pairs stays small
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mrpc_lightning",  # the same picture is the same file
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar sign in a name is one
}


def draw(
    scored: Scored, epochs: Sequence[Mapping[str, float]], kept: int | None, label_names: Sequence[str]
) -> dict[str, Figure]:
    """Draw the pictures of a report, by name.

    Args:
        scored: The scored pairs.
        epochs: The run's epochs, as `curves.diagnose` takes them; none: no learning curves.
        kept: The epoch of the kept checkpoint.
        label_names: Names of the negative and of the positive class.
    """
    with matplotlib.rc_context(STYLE):
        pictures = {"curves": _curves(epochs, kept)} if epochs else {}
        pictures["confusion"] = _one(lambda axes: _confusion(axes, scored, label_names))
        pictures["precision_recall"] = _one(lambda axes: _precision_recall(axes, scored, label_names[1]))
        pictures["calibration"] = _one(lambda axes: _calibration(axes, scored, label_names[1]))
        if scored.orders is not None:
            given, swapped = scored.orders.T
            pictures["orders"] = _one(lambda axes: _orders(axes, given, swapped, label_names[1]))
    return pictures


def points(settings: Sequence[tuple[str, Sequence[float | None]]], baseline: float | None = None) -> Figure:
    """Draw the scores of several settings: each run as a point, the mean as a line, and a baseline.

    Args:
        settings: The name of each setting, and the scores of its runs by seed, from 0 to 1; None where there is none.
        baseline: What the same prediction for every pair scores.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _rows([name for name, _ in settings])
        for row, (_, scores) in enumerate(settings):
            spread = numpy.linspace(-0.25, 0.25, len(scores)) if len(scores) > 1 else numpy.zeros(len(scores))
            values = 100 * numpy.array(scores, dtype=numpy.float64)
            axes.plot(values, row + spread, "o", color=VALIDATION, markersize=5, alpha=0.7)
            if not numpy.isnan(values).all():
                axes.plot([numpy.nanmean(values)] * 2, (row - 0.35, row + 0.35), color=INK, linewidth=1.5)
        if baseline is not None:
            axes.axvline(100 * baseline, color=TRAINING, linestyle="--", linewidth=1)
        axes.set_xlabel("F1, in percent")
    return figure


def differences(rows: Sequence[tuple[str, float, tuple[float, float], tuple[float, float] | None]]) -> Figure:
    """Draw differences of F1 with their intervals over seeds (thick), and over seeds and pairs (thin).

    Args:
        rows: The name of each setting, the mean difference, and both intervals; as shares.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _rows([name for name, *_ in rows])
        for row, (_, mean, over_seeds, over_pairs) in enumerate(rows):
            if over_pairs is not None:
                axes.plot([100 * end for end in over_pairs], (row, row), color=INK, linewidth=1)
            axes.plot([100 * end for end in over_seeds], (row, row), color=VALIDATION, linewidth=4)
            axes.plot(100 * mean, row, "o", color=INK, markersize=5)
        axes.axvline(0, color=TRAINING, linestyle="--", linewidth=1)
        axes.set_xlabel("difference of F1, in points")
    return figure


def widths(splits: Mapping[str, Sequence[int]], max_length: int) -> Figure:
    """Draw how many tokens pairs have: for each split, the pairs that have 0, 1, 2, ... tokens."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.2))
        axes = figure.add_axes((0.06, 0.16, 0.92, 0.8))
        longest = max(max(map(len, splits.values())), max_length + 1)
        edges = numpy.arange(0, longest + longest // 60 + 1, longest // 60 + 1)  # of whole tokens
        for (name, pairs), color in zip(splits.items(), (TRAINING, VALIDATION, INK), strict=False):
            share = numpy.histogram(numpy.arange(len(pairs)), edges, weights=100 * numpy.array(pairs) / sum(pairs))[0]
            axes.stairs(share, edges, color=color, linewidth=1.5, label=name)
        axes.axvline(max_length, color=INK, linestyle=":", linewidth=1, label=f"data.max_length {max_length}")
        axes.set(xlabel="tokens of a pair", ylabel="percent of the pairs", xlim=(0, longest), ylim=(0, None))
        axes.legend()
    return figure


def _rows(names: Sequence[str]) -> tuple[Figure, Axes]:
    height = 0.9 + 0.55 * len(names)
    figure = Figure(figsize=(9, height))
    left = min(0.45, 0.04 + 0.0085 * max(map(len, names)))
    axes = figure.add_axes((left, 0.6 / height, 0.98 - left, (height - 0.75) / height))
    axes.set_yticks(range(len(names)), labels=list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def svg(figure: Figure) -> str:
    """Return a picture as an SVG element, in the page's colors."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in VARIABLES.items():
        text = text.replace(color, variable)
    # Its width is the page's to choose, and names of parts must not meet those of another picture on the page.
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1))
    prefix = f"p{zlib.crc32(text.encode()):08x}"
    return re.sub(r'(id="|url\(#|xlink:href="#|href="#)', rf"\g<1>{prefix}-", text)


def png(figure: Figure) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=120, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _one(paint: Callable[[Axes], None]) -> Figure:
    # No pyplot: it would keep each figure, and choose a window system.
    figure = Figure(figsize=(5, 4.2))
    # Margins are set by hand: matplotlib takes longer to find them than to draw.
    axes = figure.add_axes((0.14, 0.27, 0.83, 0.7))
    paint(axes)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="lower center", ncols=2)  # inside the axes it would lie on some curve
    else:
        axes.set_position((0.14, 0.13, 0.83, 0.84))
    return figure


def _curves(epochs: Sequence[Mapping[str, float]], kept: int | None) -> Figure:
    figure = Figure(figsize=(10.5, 3.2))
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.15, top=0.91, wspace=0.2)
    numbers = [int(epoch["epoch"]) for epoch in epochs]
    for place, (name, title) in enumerate((("loss", "loss"), ("accuracy", "accuracy"), ("f1", "F1"))):
        axes = figure.add_subplot(1, 3, place + 1)
        for split, color, marker in (("train", TRAINING, "s"), ("val", VALIDATION, "o")):
            values = [epoch.get(f"{split}_{name}", float("nan")) for epoch in epochs]
            label = {"train": "training", "val": "validation"}[split]
            axes.plot(numbers, values, color=color, marker=marker, markersize=4, label=label)
        if kept in numbers:
            axes.axvline(kept, color=INK, linewidth=0.8, linestyle=":", label=f"kept: epoch {kept}")
        axes.set_title(title, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if place == 0:
            axes.legend()
    return figure


def _confusion(axes: Axes, scored: Scored, names: Sequence[str]) -> None:
    axes.grid(False)
    counts = numpy.zeros((2, 2), dtype=int)
    numpy.add.at(counts, (scored.labels, scored.predicted), 1)
    for row, column in numpy.ndindex(2, 2):
        color, strength = VALIDATION if row == column else TRAINING, counts[row, column] / counts.max()
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=color, alpha=0.08 + 0.5 * strength))
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=16)
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5), xticks=(0, 1), yticks=(0, 1), xlabel="predicted", ylabel="labelled")
    axes.set_xticklabels(names)
    axes.set_yticklabels(names, rotation=90, va="center")
    axes.tick_params(length=0)


def _precision_recall(axes: Axes, scored: Scored, positive: str) -> None:
    recalls, precisions, _ = curve(scored.labels, scored.positive)
    some = numpy.unique(numpy.linspace(0, recalls.shape[1] - 1, POINTS).astype(int))
    recall, precision = recalls[0, some], precisions[0, some]
    share, found = scored.labels.mean(), measure(scored.labels, scored.probabilities)
    axes.step([0, *recall], [precision[0], *precision], where="post", color=VALIDATION, label="all thresholds")
    axes.plot(found["recall"], found["precision"], "o", color=INK, label="threshold 0.5, in use")
    axes.axhline(share, color=TRAINING, linestyle="--", linewidth=1, label=f'always "{positive}"')
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(min(0.5, *precision, share), 1.02))


def _calibration(axes: Axes, scored: Scored, positive: str) -> None:
    bins = bin_of(scored.positive)
    pairs, probability, positives = (numpy.bincount(bins, one) for one in (None, scored.positive, scored.labels))
    some = pairs > 0
    probabilities, shares, sizes = probability[some] / pairs[some], positives[some] / pairs[some], pairs[some]
    axes.plot((0, 1), (0, 1), color=INK, linestyle=":", linewidth=1, label="perfect")
    axes.plot(probabilities, shares, color=VALIDATION, linewidth=1)
    axes.scatter(
        probabilities, shares, s=15 + 150 * sizes / sizes.max(), color=VALIDATION, label="ten bins; area: pairs"
    )
    axes.set(xlabel=f'probability of "{positive}"', ylabel=f'share labelled "{positive}"', xlim=(0, 1), ylim=(0, 1.05))


def _orders(axes: Axes, given: Array, swapped: Array, positive: str) -> None:
    differ = (given > 0.5) != (swapped > 0.5)
    for chosen, color, label in ((~differ, VALIDATION, "same prediction"), (differ, TRAINING, "another prediction")):
        name, many = f"{label}: {int(chosen.sum()):,}", len(chosen) > POINTS
        axes.plot(given[chosen], swapped[chosen], ".", color=color, label=name, rasterized=many)
    limits = (-0.02, 1.02)
    axes.set(xlabel=f'probability of "{positive}", as given', ylabel="the same, sentences swapped")
    axes.set(xlim=limits, ylim=limits)
