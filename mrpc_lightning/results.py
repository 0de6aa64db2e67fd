"""The final figures: the table that a person reads and the JSON that a program reads."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrpc_lightning.errors import InputError
from mrpc_lightning.model import COUNTS


def collect(logged: Mapping[str, Any], stage: str) -> dict[str, float | int]:
    """Take the figures of one evaluation out of all that the Trainer logged.

    Args:
        logged: `Trainer.callback_metrics`.
        stage: "val" or "test": what the names start with.

    Returns:
        `accuracy`, `f1` and `loss`, the counts behind them, `pairs`, and the baseline's accuracy and F1.

    Raises:
        InputError: If the loss is no number.
    """
    figures: dict[str, float | int] = {name: float(logged[f"{stage}_{name}"]) for name in ("accuracy", "f1", "loss")}
    if not math.isfinite(figures["loss"]):
        raise InputError(f"the loss is {figures['loss']}: training diverged, or the checkpoint is damaged")
    counts = {name: round(float(logged[f"{stage}_{name}"])) for name in COUNTS}
    pairs = sum(counts.values())
    positives = counts["true_positives"] + counts["false_negatives"]
    baseline_accuracy, baseline_f1 = baseline(positives, pairs)
    return {
        **figures,
        **counts,
        "pairs": pairs,
        "baseline_accuracy": baseline_accuracy,
        "baseline_f1": baseline_f1,
    }


def baseline(positives: int, pairs: int) -> tuple[float, float]:
    """Return accuracy and F1 of answering "positive" to every pair: precision is the share of positives, recall 1."""
    return positives / pairs, 2 * positives / (pairs + positives)


def table(figures: Mapping[str, float | int], title: str, positive: str) -> str:
    """Write figures beside the baseline's, as lines for the terminal."""
    name = f'always "{positive}"'
    width = max(len(title), len(name)) + 2
    counts = ", ".join(f"{figures[count]} {count.replace('_', ' ')}" for count in COUNTS)
    return "\n".join(
        [
            f"{'':{width}}accuracy      F1    loss",
            f"{title:{width}}{figures['accuracy']:8.4f}{figures['f1']:8.4f}{figures['loss']:8.4f}",
            f"{name:{width}}{figures['baseline_accuracy']:8.4f}{figures['baseline_f1']:8.4f}",
            f"{figures['pairs']:,} pairs: {counts}",
        ]
    )


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def count(number: int, noun: str) -> str:
    """Write a number with its noun, in the plural where it needs one."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """Write seconds the way a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def speed(figures: Mapping[str, float]) -> str:
    """Write what `Throughput.figures` returned."""
    parts = [f"{figures.get('pairs_per_second', 0):,.0f} pairs/s", f"{figures['padding']:.1%} padding"]
    if "model_flops_utilization" in figures:
        parts.append(f"{figures['model_flops_utilization']:.0%} of the machine's matrix rate")
    if figures["peak_memory_gigabytes"]:
        parts.append(f"{figures['peak_memory_gigabytes']:.1f} GB at most")
    return ", ".join(parts)
