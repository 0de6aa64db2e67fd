"""Where a training step's time goes on a CPU: transformers as it is, and as this project runs it.

    python benchmarks/profile_step.py --out bench             # after compare.py, whose encoder and pairs it takes

Both run in bf16 on the same batches of pairs of similar length, in turns; the table has milliseconds a step.
"""

import argparse
import statistics
import time
from pathlib import Path

from mrpc_lightning.cli.instant import keep_memory

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "_addmm_activation", "mkldnn_linear", "linear"),
    "random numbers": ("bernoulli_", "random_"),
    "filling with zeros": ("fill_", "zero_"),
    "casts and copies": ("copy_", "_to_copy", "clone", "contiguous"),
    "AdamW": ("_fused_adamw_",),
    "norms of gradients": ("linalg_vector_norm", "_foreach_norm", "_foreach_mul_", "mul_"),
    "GELU": ("gelu", "gelu_backward"),
    "softmax": ("_softmax", "_softmax_backward_data"),
    "LayerNorm": ("native_layer_norm", "native_layer_norm_backward"),
    "sums and products, elementwise": ("add", "add_", "mul", "div_", "div", "ge", "sum", "where", "masked_fill"),
}


def main() -> None:
    """Profile, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="compare.py's folder")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--plain_memory", action="store_true", help="leave glibc's memory as it is")
    asked = parser.parse_args()
    if not asked.plain_memory:
        keep_memory()

    import torch
    from clock import read_pairs
    from torch.nn.functional import cross_entropy
    from torch.profiler import ProfilerActivity, profile
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    from mrpc_lightning.nn.speedups import make_fast
    from mrpc_lightning.pairs.batches import WINDOW, TrainingBatches

    tokenizer = AutoTokenizer.from_pretrained(asked.out / "encoder")
    pairs = read_pairs(asked.out / "train.jsonl")
    encoded = tokenizer(pairs["sentence1"], pairs["sentence2"], truncation=True, max_length=128)
    rows = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    order = list(TrainingBatches([len(ids) for ids in encoded["input_ids"]], 16, 0, WINDOW))[: asked.steps]
    collate = DataCollatorWithPadding(tokenizer)
    batches = [(collate([rows[row] for row in batch]), torch.tensor(pairs["label"])[batch]) for batch in order]

    def make(attention: str | None, fast: bool) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        options = {"attn_implementation": attention} if attention else {}
        model = AutoModelForSequenceClassification.from_pretrained(
            asked.out / "encoder", dtype=torch.float32, **options
        )
        if fast:
            make_fast(model, torch.device("cpu"))
        return model.train(), torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)

    def run(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
        start = time.perf_counter()
        for inputs, labels in batches:
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                loss = cross_entropy(model(**inputs).logits, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return 1000 * (time.perf_counter() - start) / len(batches)

    made = {"sdpa": make(None, False), "eager": make("eager", False), "ours": make(None, True)}
    for parts in made.values():
        run(*parts)
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(5):
        for name, parts in made.items():
            times[name].append(run(*parts))
    columns = {}
    for name, parts in made.items():
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            run(*parts)
        spent = {
            event.key.removeprefix("aten::"): event.self_cpu_time_total / 1000 / len(batches)
            for event in profiler.key_averages()
        }
        columns[name] = {kind: sum(spent.get(key, 0.0) for key in keys) for kind, keys in KINDS.items()}
        columns[name]["all else"] = sum(spent.values()) - sum(columns[name].values())
    print(f"| milliseconds a step | {' | '.join(made)} |")
    print("|---" * (len(made) + 1) + "|")
    print(
        f"| whole step, median of 5 | {' | '.join(f'{statistics.median(values):.0f}' for values in times.values())} |"
    )
    for kind in columns["ours"]:
        print(f"| {kind} | {' | '.join(f'{columns[name][kind]:.1f}' for name in made)} |")


if __name__ == "__main__":
    main()
