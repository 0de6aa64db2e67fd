"""The pictures of a report: as SVG, whose colors follow the page, and as PNG."""

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mrpc_lightning.report import subsets as analysis

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
    scored: analysis.Scored, epochs: Sequence[Mapping[str, float]], kept: int | None, label_names: Sequence[str]
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
        pictures["confusion"] = _one(lambda axes: _confusion(axes, scored, label_names), 4.2)
        pictures["precision_recall"] = _one(lambda axes: _precision_recall(axes, scored), 4.2)
        pictures["calibration"] = _one(lambda axes: _calibration(axes, scored, label_names[1]), 4.2)
        pictures["orders"] = _one(lambda axes: _orders(axes, scored, label_names[1]), 4.2)
    return pictures


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


def write(pictures: Mapping[str, Figure], folder: Path) -> None:
    """Write the pictures as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        with matplotlib.rc_context(STYLE):
            figure.savefig(folder / f"{name}.png", dpi=120, facecolor="white", metadata={"Software": None})


def _one(paint: Callable[[Axes], None], height: float) -> Figure:
    figure = _figure(5, height)
    paint(figure.add_subplot())
    return figure


def _figure(width: float, height: float) -> Figure:
    # No pyplot: it would keep each figure, and choose a window system.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _curves(epochs: Sequence[Mapping[str, float]], kept: int | None) -> Figure:
    figure = _figure(10.5, 3.2)
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


def _confusion(axes: Axes, scored: analysis.Scored, names: Sequence[str]) -> None:
    axes.grid(False)
    counts = [
        [int(((scored.labels == row) & (scored.predicted == column)).sum()) for column in (0, 1)] for row in (0, 1)
    ]
    most = max(max(row) for row in counts) or 1
    for row in (0, 1):
        for column in (0, 1):
            strength = counts[row][column] / most
            color = VALIDATION if row == column else TRAINING
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=color, alpha=0.08 + 0.5 * strength))
            axes.text(column, row, f"{counts[row][column]:,}", ha="center", va="center", fontsize=16)
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5), xticks=(0, 1), yticks=(0, 1), xlabel="predicted", ylabel="labelled")
    axes.set_xticklabels(names)
    axes.set_yticklabels(names, rotation=90, va="center")
    axes.tick_params(length=0)


def _precision_recall(axes: Axes, scored: analysis.Scored) -> None:
    recall, precision = analysis.precision_recall(scored)
    some = numpy.unique(numpy.linspace(0, len(recall) - 1, POINTS).astype(int))
    axes.step(
        [0, *recall[some]], [precision[0], *precision[some]], where="post", color=VALIDATION, label="all thresholds"
    )
    found = analysis.measure(scored.labels, scored.positive)
    axes.plot(found["recall"], found["precision"], "o", color=INK, label="threshold 0.5, in use")
    axes.axhline(scored.labels.mean(), color=TRAINING, linestyle="--", linewidth=1, label="all positive")
    axes.set(
        xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(min(0.5, *precision, scored.labels.mean()), 1.02)
    )
    axes.legend(loc="lower left")


def _calibration(axes: Axes, scored: analysis.Scored, positive: str) -> None:
    bins = analysis.calibration(scored)
    axes.plot((0, 1), (0, 1), color=INK, linestyle=":", linewidth=1, label="perfect")
    most = max(row["pairs"] for row in bins)
    axes.plot([row["probability"] for row in bins], [row["positives"] for row in bins], color=VALIDATION, linewidth=1)
    axes.scatter(
        [row["probability"] for row in bins],
        [row["positives"] for row in bins],
        s=[15 + 150 * row["pairs"] / most for row in bins],
        color=VALIDATION,
        label="ten bins; area: pairs",
    )
    axes.set(xlabel=f'probability of "{positive}"', ylabel=f'share labelled "{positive}"', xlim=(0, 1), ylim=(0, 1.05))
    axes.legend(loc="upper left")


def _orders(axes: Axes, scored: analysis.Scored, positive: str) -> None:
    differ = (scored.given > 0.5) != (scored.swapped > 0.5)
    for chosen, color, label in ((~differ, VALIDATION, "same answer"), (differ, TRAINING, "another answer")):
        axes.plot(
            scored.given[chosen],
            scored.swapped[chosen],
            ".",
            color=color,
            label=f"{label}: {int(chosen.sum()):,}",
            rasterized=len(chosen) > POINTS,
        )
    axes.set(
        xlabel=f'probability of "{positive}", as given',
        ylabel="the same, sentences swapped",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.legend(loc="upper left")


def pixels(figure: Figure) -> NDArray[numpy.uint8]:
    """Return a picture as pixels, of shape (height, width, 3), for TensorBoard."""
    canvas: Any = figure.canvas
    with matplotlib.rc_context(STYLE):
        figure.set_facecolor("white")
        canvas.draw()
    return numpy.asarray(canvas.buffer_rgba())[..., :3]
