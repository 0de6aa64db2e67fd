"""What the order of a pair's sentences costs: the same weights scored in one order and in both, seed by seed.

    python benchmarks/orders.py --seeds 1 2 3 4 5 6 7 8 9 10 -- fit --config configs/mrpc.yaml

Each run is scored after its last epoch, without any choice of a best one: in the order in which sentences are given,
and as the mean of both orders (`model.symmetric`). It is added to --out as a line of JSON; a run that is there already
is not run again. The table at the end is of all that is there.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clock import scores
from windows import read, spread

# A run in a process of its own.
RUN = """
import sys
from mrpc_lightning.__main__ import import_main
from mrpc_lightning.cli.instant import keep_memory
keep_memory()
main = import_main()
quiet = "--trainer.enable_progress_bar=false"
command = main([*sys.argv[1:], "--early_stopping.patience=1000", quiet])
main(["test", f"--ckpt_path={command.trainer.log_dir}/checkpoints/last.ckpt", "--model.symmetric=true", quiet])
"""


def metrics(path: Path) -> dict[str, float]:
    """Return accuracy and F1 of both ways to score, and the share of pairs whose prediction depends on the order."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    positive = next(name for name in rows[0] if name.startswith("swapped_probability_")).removeprefix("swapped_")
    labels = [int(row["label"] == positive.removeprefix("probability_")) for row in rows]
    mean = [float(row[positive]) for row in rows]
    swapped = [float(row[f"swapped_{positive}"]) for row in rows]
    given = [2 * both - other for both, other in zip(mean, swapped, strict=True)]
    found = {"depends": sum((a > 0.5) != (b > 0.5) for a, b in zip(given, swapped, strict=True)) / len(rows)}
    for name, shares in (("plain", given), ("mean", mean)):
        found[f"{name}_accuracy"], found[f"{name}_f1"] = scores(labels, [int(share > 0.5) for share in shares])
    return found


def table(rows: Sequence[dict[str, float]]) -> str:
    """Return the table: scoring in both orders beside plain scoring."""
    lines = [
        "| `model.symmetric` | seeds | accuracy | F1 | accuracy minus plain | F1 minus plain "
        "| predictions that depend on the order |",
        "|---|---|---|---|---|---|---|",
    ]
    for scoring in ("plain", "mean"):
        cells = ["true" if scoring == "mean" else "false", f"{len(rows)}"]
        for metric in ("accuracy", "f1"):
            cells.append(spread([100 * row[f"{scoring}_{metric}"] for row in rows]))
        for metric in ("accuracy", "f1"):
            gains = [100 * (row[f"{scoring}_{metric}"] - row[f"plain_{metric}"]) for row in rows]
            cells.append(spread(gains, error=True) if scoring == "mean" and len(gains) > 1 else "")
        depends = statistics.mean(row["depends"] for row in rows)
        cells.append(f"{depends:.1%}" if scoring == "plain" else "none")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(1, 11)])
    parser.add_argument("--out", type=Path, default=Path("orders.jsonl"))
    parser.add_argument("words", nargs="+", help="the command to run, after --")
    options = parser.parse_args()
    for seed in options.seeds:
        command = " ".join(options.words)
        if any((row["seed"], row["command"]) == (seed, command) for row in read(options.out)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            words = [*options.words, f"--seed_everything={seed}", f"--trainer.logger.save_dir={folder}"]
            subprocess.run([sys.executable, "-c", RUN, *words], check=True)
            [found] = Path(folder).glob("**/test_predictions.csv")
            row = {"seed": seed, "command": command, **metrics(found)}
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    print(table(read(options.out)))


if __name__ == "__main__":
    main()
