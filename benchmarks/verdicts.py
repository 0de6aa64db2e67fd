"""Whether the advice that learning curves give holds: runs are cut after each epoch, and what came after is looked at.

    for seed in 1 2 3; do
        python -m mrpc_lightning fit --config configs/mrpc.yaml --seed_everything $seed --trainer.max_epochs 8 \
            --early_stopping.patience 8
    done
    python benchmarks/verdicts.py tb_logs/mrpc/*/metrics.json

"Still learning" holds where one of the next two epochs has a better F1 than all before; "settled" holds where none has.
The schedule of a run is sized for all its epochs: a run that ends where this one is cut would have a lower learning
rate by then.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrpc_lightning.report.curves import diagnose

FIRST_CUT, NEXT = 2, 2  # epochs before the first cut; epochs after a cut that are looked at


def counts(epoch: Mapping[str, float], pairs: int, positives: int) -> dict[str, int]:
    """Return the counts behind an epoch's accuracy and F1: F1 = 2 TP / (2 TP + wrong)."""
    wrong, f1 = round((1 - epoch["val_accuracy"]) * pairs), epoch["val_f1"]
    found = positives if not wrong else round(f1 * wrong / (2 * (1 - f1)))
    false_positives = wrong - (positives - found)
    return {
        "pairs": pairs,
        "true_positives": found,
        "false_positives": false_positives,
        "true_negatives": pairs - positives - false_positives,
        "false_negatives": positives - found,
    }


def verdicts(metrics: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Return, for each cut of a run, the diagnosis and whether a better F1 came in the next epochs."""
    epochs: Sequence[Mapping[str, float]] = metrics["epochs"]
    positives = metrics["true_positives"] + metrics["false_negatives"]
    found = []
    for cut in range(FIRST_CUT, len(epochs)):
        before, after = epochs[:cut], epochs[cut : cut + NEXT]
        kept = max(before, key=lambda epoch: epoch["val_f1"])
        share = {name: metrics[name] for name in ("training_positives",) if name in metrics}
        kind = diagnose(before, {**counts(kept, metrics["pairs"], positives), **share}, ("negative", "positive")).kind
        better = max(epoch["val_f1"] for epoch in after) > kept["val_f1"]
        found.append((kind.split(" since")[0], better))
    return found


def main() -> None:
    """Print how often each diagnosis was followed by a better F1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="metrics.json of runs of eight epochs")
    files = parser.parse_args().files
    found = [verdict for path in files for verdict in verdicts(json.loads(path.read_text(encoding="utf-8")))]
    cuts, better = Counter(kind for kind, _ in found), Counter(kind for kind, rose in found if rose)
    print(f"{len(files)} runs, {len(found)} cuts\n{'diagnosis':16}{'cuts':>6}{'then a better F1':>18}{'share':>8}")
    for kind, number in cuts.most_common():
        print(f"{kind:16}{number:6}{better[kind]:18}{better[kind] / number:8.0%}")


if __name__ == "__main__":
    main()
