"""Pairs a second of a trained model in code: this project, transformers' pipeline and ONNX Runtime, in turns.

    python -m pip install -e ".[onnx]"
    python -m mrpc_lightning export --to model --onnx --int8
    python benchmarks/predictions.py model

Every contestant gets the same list of pairs of MRPC and returns a probability for each, tokenizing included. All of
them are loaded once, and warmed; then each round times all of them, in an order that changes from round to round.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrpc_lightning.cli.instant import keep_memory

Pairs = list[tuple[str, str]]
Predict = Callable[[Pairs], list[float]]
BATCH = 32
OURS, REFERENCE = "mrpc_lightning, bf16", "mrpc_lightning, fp32"


def pipeline(folder: Path, dtype: str, batch_size: int, is_sorted: bool) -> Predict:
    """Return transformers' pipeline for pairs, which takes them in the order that they come in."""
    import torch
    from transformers import pipeline

    classify: Any = pipeline("text-classification", model=str(folder), dtype=getattr(torch, dtype), device="cpu")

    positive = classify.model.config.id2label[1]

    def predict(pairs: Pairs) -> list[float]:
        order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i]))) if is_sorted else range(len(pairs))
        rows = [{"text": pairs[i][0], "text_pair": pairs[i][1]} for i in order]
        found = classify(rows, batch_size=batch_size, truncation=True, max_length=128, top_k=None)
        shares = {
            i: next(x["score"] for x in one if x["label"] == positive) for i, one in zip(order, found, strict=True)
        }
        return [shares[i] for i in range(len(pairs))]

    return predict


def onnx(folder: Path, name: str) -> Predict:
    """Return ONNX Runtime on a file that `export` wrote, with batches sorted by length."""
    import numpy
    import onnxruntime
    from transformers import AutoTokenizer

    session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def predict(pairs: Pairs) -> list[float]:
        tokens = tokenizer(*map(list, zip(*pairs, strict=True)), truncation=True, max_length=128)
        order = sorted(range(len(pairs)), key=lambda i: len(tokens["input_ids"][i]))
        shares = [0.0] * len(pairs)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = tokenizer.pad({name: [tokens[name][i] for i in rows] for name in tokens}, return_tensors="np")
            [logits] = session.run(["logits"], {name: batch[name].astype(numpy.int64) for name in names})
            for i, (low, high) in zip(rows, logits.tolist(), strict=True):
                shares[i] = float(1 / (1 + numpy.exp(low - high)))
        return shares

    return predict


def ours(folder: Path, is_bf16: bool) -> Predict:
    """Return this project's `Predictor`."""
    import torch

    from mrpc_lightning import Predictor

    predictor = Predictor.from_run(folder)
    predictor.model.max_length = 128
    predictor.model.autocast_dtype = torch.bfloat16 if is_bf16 else None
    return lambda pairs: [[*one.probabilities.values()][1] for one in predictor.predict(pairs)]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what export --onnx --int8 wrote")
    parser.add_argument("--data_dir", help="folder of MRPC's files; without it the Hub's")
    parser.add_argument("--pairs", type=int, default=1725, help="the first so many of the test split")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="say where this project's time goes, and end")
    asked = parser.parse_args()
    keep_memory()

    import torch

    from mrpc_lightning import MRPCDataModule, Predictor
    from mrpc_lightning.pairs.tokens import lengths
    from mrpc_lightning.run.provenance import processor
    from mrpc_lightning.run.throughput import matrix_flops, model_flops

    folder = asked.folder
    data = MRPCDataModule(str(folder), data_dir=asked.data_dir)
    data.setup("predict")
    rows = data.pairs["predict"].select(range(min(asked.pairs, len(data.pairs["predict"]))))
    pairs = list(zip(rows["sentence1"], rows["sentence2"], strict=True))
    if asked.profile:
        return profile(ours(folder, True), pairs)
    contestants = {
        "pipeline as it comes: fp32, one pair at a time": pipeline(folder, "float32", 1, False),
        f"pipeline, fp32, batches of {BATCH}": pipeline(folder, "float32", BATCH, False),
        f"pipeline, bf16, batches of {BATCH}": pipeline(folder, "bfloat16", BATCH, False),
        "the same, pairs sorted by length": pipeline(folder, "bfloat16", BATCH, True),
        "ONNX Runtime, fp32, sorted": onnx(folder, "model.onnx"),
        "ONNX Runtime, int8, sorted": onnx(folder, "model.int8.onnx"),
        REFERENCE: ours(folder, False),
        OURS: ours(folder, True),
    }
    expected = {name: predict(pairs) for name, predict in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    rates: list[float] = []
    for number in range(asked.rounds):
        names = list(contestants)[number % len(contestants) :] + list(contestants)[: number % len(contestants)]
        for name in names:
            rates.append(matrix_flops(torch.device("cpu"), torch.bfloat16))
            start = time.perf_counter()
            contestants[name](pairs)
            seconds[name].append(time.perf_counter() - start)
    model = Predictor.from_run(folder).model
    # A third of what `model_flops` counts for a training step: forward alone.
    limit = max(rates) / (model_flops(model) / 3 * lengths(data.tokens["predict"])[: len(pairs)].mean())
    print(
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{sum(one.numel() for one in model.parameters()) / 1e6:.1f} M parameters, {len(pairs):,} pairs; bf16 matrices "
        f"at {max(rates) / 1e12:.2f} TFLOP/s, a limit of {limit:.0f} pairs/s\n"
    )
    print("| | pairs/s | ours is faster by, median [range] | share of the limit | furthest from fp32 | other answers |")
    print("|---|---|---|---|---|---|")
    for name, spent in seconds.items():
        ratios = sorted(one / our for one, our in zip(spent, seconds[OURS], strict=True))
        rate = len(pairs) / statistics.median(spent)
        apart = [abs(a - b) for a, b in zip(expected[name], expected[REFERENCE], strict=True)]
        changed = sum((a > 0.5) != (b > 0.5) for a, b in zip(expected[name], expected[REFERENCE], strict=True))
        faster = "" if name == OURS else f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        print(
            f"| {name} | {rate:.0f} | {faster} | {rate / limit:.0%} | {max(apart):.4f} | {changed / len(pairs):.1%} |"
        )


def profile(predict: Predict, pairs: Pairs) -> None:
    """Print the operators that take the most time of their own."""
    from torch.profiler import ProfilerActivity, profile

    predict(pairs)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        predict(pairs)
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))


if __name__ == "__main__":
    main()
