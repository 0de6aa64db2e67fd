"""What every contestant measures, in the same way."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WARM = 3  # steps that do not count: the first ones find memory and choose kernels


def options() -> argparse.Namespace:
    """Return what compare.py asks of each contestant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True, help="encoder/, train.jsonl and validation.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--learning_rate", type=float, required=True)
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("variant", nargs="?", default="")
    return parser.parse_args()


def read_pairs(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a file of pairs."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: [row[name] for row in rows] for name in ("sentence1", "sentence2", "label")}


class Clock:
    """Counts pairs and tokens of each step, and the time that steps take; what comes between epochs is left out."""

    def __init__(self) -> None:
        import torch

        self.synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
        self.steps = self.pairs = 0
        self.tokens: Any = 0
        self.computed = 0
        self.seconds = self.first_step = self.since = 0.0

    def step(self, attention_mask: Any) -> None:
        """Count one step, when it is over."""
        self.steps += 1
        self.tokens = self.tokens + attention_mask.sum()
        self.computed += attention_mask.numel()
        if self.steps == 1:
            self.synchronize()
            self.first_step = time.time()
        if self.steps > WARM:
            self.pairs += len(attention_mask)
        elif self.steps == WARM:
            self.resume()

    def resume(self) -> None:
        """Let the clock run, when an epoch begins."""
        self.synchronize()
        self.since = time.perf_counter() if self.steps >= WARM else 0.0

    def pause(self) -> None:
        """Stop the clock, when an epoch is over."""
        self.synchronize()
        if self.since:
            self.seconds += time.perf_counter() - self.since
        self.since = 0.0

    def write(self, path: Path, accuracy: float, f1: float) -> None:
        """Write what was measured; times are counted from the start of the command."""
        started = float(os.environ["STARTED"])
        path.write_text(
            json.dumps(
                {
                    "pairs_per_second": self.pairs / self.seconds,
                    "padding": 1 - int(self.tokens) / self.computed,
                    "seconds_to_first_step": self.first_step - started,
                    "seconds_to_metrics": time.time() - started,
                    "peak_memory_gigabytes": peak_memory() / 1e9,
                    "accuracy": accuracy,
                    "f1": f1,
                }
            )
        )


def scores(labels: Sequence[int], predictions: Sequence[int]) -> tuple[float, float]:
    """Return accuracy and the F1 of class 1."""
    pairs = list(zip(labels, predictions, strict=True))
    true_positives = sum(label == prediction == 1 for label, prediction in pairs)
    wrong = sum(label != prediction for label, prediction in pairs)
    return 1 - wrong / len(pairs), 2 * true_positives / (2 * true_positives + wrong)


def peak_memory() -> int:
    """Return the most bytes that the card, or else this process, has held."""
    import resource

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
