"""This project beside its peers: the same weights, pairs, seeds and epochs, in one sitting, in turns.

    python -m pip install -e ".[bench]"
    python benchmarks/compare.py --out bench --epochs 2
    python benchmarks/compare.py --out bench_base --layers 12 --hidden 768 --pairs 320  # random, of BERT-base's size

Every contestant is a process of its own. All of them run once with each seed before any runs with the next, so that a
slow minute of the machine meets them all. OUT/results.jsonl has each run; runs that are there are not run again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONTESTANTS = {
    "HF Trainer, run_glue's defaults": ("hf_trainer.py", "defaults"),
    "HF Trainer, bf16, grouped by length": ("hf_trainer.py", "best"),
    "the same, eager attention": ("hf_trainer.py", "best-eager"),
    "accelerate's MRPC example, bf16": ("accelerate_loop.py", ""),
    "sentence-transformers' CrossEncoder, bf16": ("cross_encoder.py", ""),
    "bare PyTorch loop, our settings": ("bare_loop.py", ""),
    "mrpc_lightning": ("ours.py", ""),
}
OURS, BARE = "mrpc_lightning", "bare PyTorch loop, our settings"
COLUMNS = {
    "pairs_per_second": ("pairs/s", "{:.1f}"),
    "padding": ("padding", "{:.1%}"),
    "share_of_limit": ("share of the limit", "{:.0%}"),
    "seconds_to_first_step": ("s to first step", "{:.1f}"),
    "seconds_to_metrics": ("s to metrics", "{:.0f}"),
    "peak_memory_gigabytes": ("GB", "{:.2f}"),
    "accuracy": ("accuracy", "{:.3f}"),
    "f1": ("F1", "{:.3f}"),
}
Run = dict[str, float | str | int]


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument(
        "--model", default="google-bert/bert-base-uncased", help="encoder; demo: the embedded corpus, with --layers"
    )
    parser.add_argument("--data_dir", help="folder of MRPC's files; without it the Hub's")
    parser.add_argument("--layers", type=int, help="random weights of this many layers instead of the encoder's")
    parser.add_argument("--hidden", type=int, help="and this wide")
    parser.add_argument("--pairs", type=int, help="the first so many training pairs alone")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="each with a seed of its own")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_length", type=int, default=128, help="tokens a pair")
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    return parser.parse_args()


def prepare(asked: argparse.Namespace) -> None:
    """Write what all contestants read."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

    from mrpc_lightning import MRPCDataModule, demo
    from mrpc_lightning.run.provenance import processor
    from mrpc_lightning.run.throughput import model_flops

    corpus = {"dataset_name": "demo", "dataset_config": None} if asked.model == "demo" else {}
    data = MRPCDataModule(asked.model, data_dir=asked.data_dir, max_length=asked.max_length, **corpus)
    data.setup("fit")
    for split in ("train", "validation"):
        pairs = data.pairs[split].remove_columns("idx")
        pairs = pairs.select(range(min(len(pairs), asked.pairs or len(pairs)))) if split == "train" else pairs
        pairs.cast_column("label", pairs.features["label"].__class__(names=["0", "1"])).to_json(
            asked.out / f"{split}.jsonl"
        )
    torch.manual_seed(0)
    if asked.layers or asked.hidden:
        hidden = asked.hidden or 768
        config = BertConfig(
            vocab_size=AutoConfig.from_pretrained(demo.resolve(asked.model)).vocab_size,
            hidden_size=hidden,
            num_hidden_layers=asked.layers or 12,
            num_attention_heads=hidden // 64,
            intermediate_size=4 * hidden,
        )
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(demo.resolve(asked.model), dtype=torch.float32)
    model.save_pretrained(asked.out / "encoder")
    data.load_tokenizer().save_pretrained(asked.out / "encoder")
    lengths = [len(ids) for ids in data.tokens["train"]["input_ids"][: asked.pairs]]
    facts = {
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "cores": torch.get_num_threads(),
        "flops": 0.0,
        "flops_per_pair": model_flops(model) * sum(lengths) / len(lengths),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "pairs": len(lengths),
        "torch": torch.__version__,
    }
    (asked.out / "facts.json").write_text(json.dumps(facts, indent=2))


def measure(asked: argparse.Namespace) -> dict[str, float | str]:
    """Measure how fast the machine multiplies matrices, and return its facts with the best that it has shown so far."""
    import torch

    from mrpc_lightning.nn.precision import choose_precision
    from mrpc_lightning.run.throughput import DTYPES, matrix_flops

    path = asked.out / "facts.json"
    facts: dict[str, float | str] = json.loads(path.read_text())
    dtype = DTYPES.get(choose_precision(None, "auto")[0].split("-")[0], torch.float32)
    rate = matrix_flops(torch.device("cuda" if torch.cuda.is_available() else "cpu"), dtype)
    facts |= {"dtype": str(dtype).removeprefix("torch."), "flops": max(rate, facts["flops"])}
    path.write_text(json.dumps(facts, indent=2))
    return facts


def run(asked: argparse.Namespace, name: str, seed: int) -> Run:
    """Run one contestant once."""
    script, variant = CONTESTANTS[name]
    found = asked.out / "found.json"
    found.unlink(missing_ok=True)
    words = [f"--{key}={getattr(asked, key)}" for key in ("epochs", "batch_size", "learning_rate", "max_length")]
    words += [f"--folder={asked.out.resolve()}", f"--out={found.resolve()}", f"--seed={seed}"]
    command = [sys.executable, str(HERE / script), *words, *([variant] if variant else [])]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "CONFIG": str(HERE.parent / "configs/mrpc.yaml"),
        "STARTED": str(time.time()),
    }
    with (asked.out / "log.txt").open("a") as log:
        subprocess.run(command, env=environment, check=True, stdout=log, stderr=log)
    return {"name": name, "seed": seed, **json.loads(found.read_text())}


def table(runs: list[Run], facts: dict[str, float | str]) -> str:
    """Return medians and ranges of each contestant, and ours beside each of the others."""
    limit = facts["flops"] / facts["flops_per_pair"]
    lines = [
        f"{facts['machine']}, {facts['cores']} threads, torch {facts['torch']}; {facts['parameters'] / 1e6:.1f} M "
        f"parameters, {facts['pairs']:,} training pairs; {facts['dtype']} matrices at {facts['flops'] / 1e12:.2f} "
        f"TFLOP/s, a limit of {limit:.0f} pairs/s",
        "",
        f"| | ours is faster by, median [range] | {' | '.join(title for title, _ in COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    ours = {one["seed"]: one["pairs_per_second"] for one in runs if one["name"] == OURS}
    for name in CONTESTANTS:
        of_name = [{**one, "share_of_limit": one["pairs_per_second"] / limit} for one in runs if one["name"] == name]
        if not of_name:
            continue
        ratios = [ours[one["seed"]] / one["pairs_per_second"] for one in of_name if one["seed"] in ours]
        cells = [span(ratios, "{:.2f}") if name != OURS and ratios else ""]
        cells += [span([one[key] for one in of_name], form) for key, (_, form) in COLUMNS.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def span(values: list[float], form: str) -> str:
    """Write median and range."""
    low, middle, high = (form.format(value) for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} [{low}, {high}]"


def main() -> None:
    """Run what is missing, and write the table."""
    asked = options()
    asked.out.mkdir(parents=True, exist_ok=True)
    results = asked.out / "results.jsonl"
    if not (asked.out / "facts.json").exists():
        prepare(asked)
    for seed in range(1, asked.repeats + 1):
        for name in asked.only:
            done = read(results)
            if not any((one["name"], one["seed"]) == (name, seed) for one in done):
                measure(asked)
                one = run(asked, name, seed)
                with results.open("a") as file:
                    file.write(json.dumps(one) + "\n")
                print(f"seed {seed}  {name}: {one['pairs_per_second']:.1f} pairs/s", flush=True)
    text = table(read(results), measure(asked))
    (asked.out / "table.md").write_text(text + "\n")
    print(f"\n{text}")


def read(path: Path) -> list[Run]:
    """Return the runs of a file; none if there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
