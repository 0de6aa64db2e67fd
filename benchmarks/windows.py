"""What batches of similar length cost in accuracy: the same runs with several windows, paired by seed.

    python benchmarks/windows.py --seeds 1 2 3 4 5 --windows 0 10 25 50 -- fit --config configs/mrpc.yaml

Each run's figures of the last epoch, without any choice of a best one, are added to --out as a line of JSON; a run that
is there already is not run again. The table at the end is of all that is there.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# A run in a process of its own: the window is no setting of the project.
RUN = """
import json, sys
from mrpc_lightning.cli.instant import keep_memory
keep_memory()
import torch
from mrpc_lightning import data, main
from mrpc_lightning.pairs import batches as batching
data.WINDOW = int(sys.argv[1])
words = sys.argv[3:]
command = main([*words, "--early_stopping.patience=1000", "--trainer.enable_progress_bar=false"])
folder = command.folder if command.checkpoint else command.trainer.log_dir
metrics = json.load(open(f"{folder}/metrics.json"))
figures = torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)["metrics"]
batches = command.datamodule.train_dataloader().sampler
lengths, padded, total = batches.lengths, 0, 0
for batch in batches:
    padded, total = padded + len(batch) * int(lengths[batch].max()), total + int(lengths[batch].sum())
json.dump({"window": data.WINDOW, "seed": metrics["seed"], "padding": 1 - total / padded,
           "accuracy": figures["val_accuracy"], "f1": figures["val_f1"], "loss": figures["val_loss"],
           "pairs_per_second": metrics["training_pairs_per_second"]}, open(sys.argv[2], "w"))
"""


def table(rows: Sequence[dict[str, float]]) -> str:
    """Return the table of all runs: each window beside free shuffling (window 0), seed by seed."""
    by_window: dict[int, dict[int, dict[str, float]]] = {}
    for row in rows:
        by_window.setdefault(int(row["window"]), {})[int(row["seed"])] = row
    lines = [
        "| window | padding | seeds | accuracy | F1 | accuracy minus that of window 0 | F1 minus that of window 0 |",
        "|---|---|---|---|---|---|---|",
    ]
    plain = by_window.get(0, {})
    for window, runs in sorted(by_window.items()):
        padding = statistics.mean(run["padding"] for run in runs.values())
        cells = [f"{window}", f"{padding:.1%}", f"{len(runs)}"]
        cells += [spread([100 * run[figure] for run in runs.values()]) for figure in ("accuracy", "f1")]
        for figure in ("accuracy", "f1"):
            differences = [100 * (run[figure] - plain[seed][figure]) for seed, run in runs.items() if seed in plain]
            cells.append(spread(differences, error=True) if window and len(differences) > 1 else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], error: bool = False) -> str:
    """Return the mean, and beside it the standard deviation, or the standard error of the mean."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    deviation = statistics.stdev(values)
    return f"{statistics.mean(values):{'+' * error}.1f} ± {deviation / len(values) ** 0.5 if error else deviation:.1f}"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--windows", type=int, nargs="+", default=[0, 10, 25, 50])
    parser.add_argument("--out", type=Path, default=Path("windows.jsonl"))
    parser.add_argument("words", nargs="+", help="the command to run, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for window in options.windows:
                if any((row["window"], row["seed"]) == (window, seed) for row in read(options.out)):
                    continue
                found = Path(folder) / "figures.json"
                words = [*options.words, f"--seed_everything={seed}", f"--trainer.logger.save_dir={folder}"]
                subprocess.run([sys.executable, "-c", RUN, str(window), str(found), *words], check=True)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(found.read_text() + "\n")
    print(table(read(options.out)))


def read(path: Path) -> list[dict[str, float]]:
    """Return the runs of a file; none if there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
