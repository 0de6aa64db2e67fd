"""What training needs on more than one device: memory, time of an optimizer step, network; for docs/scaling.md.

python benchmarks/scaling.py memory    # per GPU, from a formula that tests/test_benchmarks.py checks
python benchmarks/scaling.py cluster   # steps of one to 1,000 GPUs, from published rates
python benchmarks/scaling.py steps     # one, two and three processes here, predicted and measured
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from mrpc_lightning import main
from mrpc_lightning.nn.speedups import make_fast
from mrpc_lightning.pairs.batches import WINDOW, TrainingBatches
from mrpc_lightning.pairs.tokens import lengths

# Bytes that layers keep for the backward pass, with bf16 autocast, fused attention and dropout of hidden states: fitted
# to what small encoders keep.
HIDDEN, INTERMEDIATE, HEADS = 28.5, 4.1, 12.1  # a layer, token and unit of each kind
EMBEDDINGS = 9.3  # a token and unit of the hidden states
STATES = 16  # bytes a parameter: weight, gradient and AdamW's two moments, in float32
COPY = 2  # bytes a weight of a linear layer: the copy in bf16 that autocast makes
GIB = 2**30

# Shapes as their authors publish them. Vocabularies count as parameters.
ENCODERS = {
    "BERT-base": {"model_type": "bert"},
    "BERT-large": {
        "model_type": "bert",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "XLM-R-XL": {"model_type": "xlm-roberta-xl"},
    "XLM-R-XXL": {
        "model_type": "xlm-roberta-xl",
        "hidden_size": 4096,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "intermediate_size": 16384,
    },
}


class Shape(NamedTuple):
    """What memory and time depend on.

    Attributes:
        parameters: All of them.
        in_layers: Those of the encoder's layers.
        linear: The weights of linear layers.
        layers: The number of layers.
        unit_bytes: Bytes that a layer keeps for each token.
        hidden: Units of the hidden states.
    """

    parameters: int
    in_layers: int
    linear: int
    layers: int
    unit_bytes: float
    hidden: int


def shape(model: PreTrainedModel) -> Shape:
    """Return the shape of a model, which may have no memory (`torch.device("meta")`)."""
    config: Any = model.config
    lists = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    layers = max(lists, key=len)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    kept = HIDDEN * config.hidden_size + INTERMEDIATE * config.intermediate_size + HEADS * config.num_attention_heads
    return Shape(
        sum(one.numel() for one in model.parameters()),
        sum(one.numel() for one in layers.parameters()),
        sum(module.weight.numel() for module in linear),
        len(layers),
        kept,
        config.hidden_size,
    )


def activations(of: Shape, tokens: int, checkpointed: bool = False) -> float:
    """Return the bytes that are kept for the backward pass.

    Args:
        of: The model.
        tokens: Tokens that a process computes at a time, padding included.
        checkpointed: With `model.gradient_checkpointing` a layer keeps its input alone, in float32, and one is computed
            again at a time.
    """
    outside = EMBEDDINGS * of.hidden * tokens
    layer = of.unit_bytes * tokens + COPY * of.linear / of.layers
    if checkpointed:
        return outside + of.layers * 4 * of.hidden * tokens + layer
    return outside + of.layers * layer


def memory(of: Shape, tokens: int, processes: int, sharded: bool, checkpointed: bool) -> float:
    """Return the bytes that each of some processes needs, without what the library and the driver take."""
    if sharded:  # its share; whole, in float32 and with the buffer of the fetch, what is in no layer; and two layers
        gathered = 2 * (of.parameters - of.in_layers) + 2 * of.in_layers / of.layers
        states = STATES * of.parameters / processes + 4 * gathered
    else:
        states = STATES * of.parameters
    return states + activations(of, tokens, checkpointed)


def describe(values: dict[str, Any]) -> Shape:
    """Return the shape of an encoder of which there are no weights."""
    with torch.device("meta"):
        return shape(AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**values)))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def memory_table(pairs: int, tokens: int) -> str:
    """Return GiB per GPU for each encoder, so many pairs of so many tokens at a time."""
    ways = {"one GPU, or ddp": (1, False), "8 GPUs, fsdp": (8, True), "64 GPUs, fsdp": (64, True)}
    rows = []
    for name, values in ENCODERS.items():
        of = describe(values)
        cells = [
            " / ".join(f"{memory(of, pairs * tokens, *way, again) / GIB:.1f}" for again in (False, True))
            for way in ways.values()
        ]
        rows.append([name, f"{of.parameters / 1e6:,.0f} M", *cells, f"{12 * of.parameters / 1e9:.1f} GB"])
    return table(["encoder", "parameters", *ways, "last.ckpt"], rows)


def cluster_table(pairs: int, tokens: int, flops: float, utilization: float, inside: float, between: float) -> str:
    """Return what steps cost on up to 1,000 GPUs, eight a machine.

    Args:
        pairs: Pairs that each GPU computes in a step.
        tokens: Tokens a pair.
        flops: Of a GPU in bf16, a second.
        utilization: The share of them that training reaches.
        inside: Bytes a second that a GPU sends to another of its machine.
        between: The same to another machine.
    """
    rows = []
    for name in ("BERT-base", "BERT-large"):
        of = describe(ENCODERS[name])
        compute = 6 * of.in_layers * pairs * tokens / (flops * utilization)
        for gpus in (1, 8, 64, 1000):
            sent = 2 * (gpus - 1) / gpus * 4 * of.parameters  # float32, by a ring (Patarasuk & Yuan 2009)
            network = sent / (inside if gpus <= 8 else between)
            # What is sent during the backward pass, two thirds of the time, costs nothing.
            seconds = compute / 3 + max(compute * 2 / 3, network)
            rate = gpus * pairs / seconds
            hours = 1e8 / rate / 3600
            cells = [
                f"{gpus:,}",
                f"{1e3 * compute:.0f} ms",
                f"{1e3 * network:.0f} ms",
                f"{gpus * pairs:,}",
                f"{rate:,.0f}",
            ]
            rows.append([name, *cells, f"{hours:,.2f} h", f"{hours * gpus:,.0f}"])
    header = ["encoder", "GPUs", "compute", "network", "pairs a step", "pairs/s", "100 M pairs", "GPU hours"]
    return table(header, rows)


# What is measured here.


def timed(call: Callable[[], Any], repeats: int = 5) -> float:
    """Return the median seconds of a call."""
    call()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


class Compute(NamedTuple):
    """Seconds of a process's part of an optimizer step, of a batch of some tokens, on one core."""

    fixed: float
    a_token: float
    a_square: float  # a pair and squared token

    def seconds(self, pairs: int, width: int) -> float:
        """Return the seconds of a batch of so many pairs, padded to a width."""
        return self.fixed + self.a_token * pairs * width + self.a_square * pairs * width**2


def measure(model: Any, optimizer: torch.optim.Optimizer, widths: Sequence[int]) -> Compute:
    """Measure what a step costs on one core, and fit `Compute` to it."""
    shapes = [(pairs, width) for pairs in (4, 8, 16, 32) for width in widths]

    def step(pairs: int, width: int) -> float:
        ids = torch.full((pairs, width), 5)
        start = time.perf_counter()
        model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.logsumexp(dim=-1).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    turns = [[step(*shape) for shape in shapes] for _ in range(12)][2:]  # the first ones compile
    seconds = numpy.median(turns, axis=0)
    rows = [[1, pairs * width, pairs * width**2] for pairs, width in shapes]
    weights = 1 / seconds  # relative errors
    found, *_ = numpy.linalg.lstsq(numpy.array(rows) * weights[:, None], numpy.ones(len(rows)), rcond=None)
    return Compute(*map(float, found))


ROUNDS = 3


class Parts(NamedTuple):
    """What a step is made of on some processes, all at work at once; seconds.

    Attributes:
        compute: Of a process's own pairs.
        gradients: To add up the gradients.
    """

    compute: Compute
    gradients: float


def measure_process(folder: str, widths: Sequence[int]) -> None:
    """Measure `Parts` as one of the processes that torchrun starts; the first one prints them."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    model = AutoModelForSequenceClassification.from_pretrained(folder).train()
    make_fast(model, torch.device("cpu"))
    gradients = torch.zeros(sum(one.numel() for one in model.parameters()))
    compute = measure(model, torch.optim.AdamW(model.parameters(), fused=True), widths)
    seconds = timed(lambda: torch.distributed.all_reduce(gradients), 25)
    if torch.distributed.get_rank() == 0:
        print(json.dumps([compute, seconds]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def measure_parts(processes: int, folder: str, widths: Sequence[int]) -> Parts:
    """Measure `Parts` on so many processes, of the encoder in a folder."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, __file__, "process", *map(str, widths), f"--config={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    compute, gradients = json.loads(done.stdout.splitlines()[-1])
    return Parts(Compute(*compute), gradients if processes > 1 else 0.0)


def seconds_a_step(data: Any, parts: Parts, processes: int, pairs: int) -> float:
    """Return the mean seconds of an epoch's steps of so many pairs: the slowest process decides on each.

    What Lightning does beside is not in it.
    """
    widths = lengths(data.tokens["train"])
    shares = [list(TrainingBatches(widths, pairs, 42, WINDOW, processes, rank)) for rank in range(processes)]
    found = [
        max(parts.compute.seconds(len(rows), int(widths[rows].max())) for rows in step)
        for step in zip(*shares, strict=True)
    ]
    return statistics.mean(found) + parts.gradients


def steps_table(config: str, words: list[str]) -> str:
    """Train for an epoch on one, two and three processes, and return what was predicted and measured.

    What Lightning does in each step beside computing is measured on one process, with half as many pairs a step.
    """
    with tempfile.TemporaryDirectory() as folder:
        where = f"--trainer.logger.init_args.save_dir={folder}"
        given = ["fit", f"--config={config}", "--trainer.accelerator=cpu", "--trainer.max_epochs=1", where, *words]
        cli: Any = main([*given, "--trainer.fast_dev_run=true"])
        cli.model.model.save_pretrained(f"{folder}/encoder")
        data, size = cli.datamodule, cli.datamodule.hparams["global_batch_size"]
        widest = data.hparams["max_length"]
        widths = [widest // 4, widest // 2, widest]

        def rate(processes: int, pairs: int) -> float:
            """Return the pairs a second of a run."""
            own = [f"--data.global_batch_size={pairs}", f"--trainer.devices={processes}"]
            command = [sys.executable, "-m", "mrpc_lightning", *given, *own]
            subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
            newest = max(Path(folder).rglob("metrics.json"), key=lambda path: path.stat().st_mtime)
            return float(json.loads(newest.read_text())["training_pairs_per_second"])

        # A machine's speed changes with time: what is predicted from is measured beside what it predicts.
        found: dict[int, list[tuple[float, ...]]] = {1: [], 2: [], 3: []}
        for _ in range(ROUNDS):
            half, beside = size // 2, 0.0
            for processes, rounds in found.items():
                pairs, parts = size // processes * processes, measure_parts(processes, f"{folder}/encoder", widths)
                if processes == 1:
                    beside = max(half / rate(1, half) - seconds_a_step(data, parts, 1, half), 0.0)
                crowded = beside * max(processes / (os.cpu_count() or 1), 1.0)
                seconds, measured = seconds_a_step(data, parts, processes, pairs), rate(processes, pairs)
                predicted = pairs / (seconds + crowded)
                compute = seconds - parts.gradients
                rounds.append((1e3 * compute, 1e3 * crowded, 1e3 * parts.gradients, predicted, measured))
        rows = []
        for processes, rounds in found.items():
            *ms, predicted, measured = (statistics.median(values) for values in zip(*rounds, strict=True))
            ratios = sorted(one[3] / one[4] for one in rounds)
            cells = [*(f"{one:.1f} ms" for one in ms), f"{predicted:,.0f}", f"{measured:,.0f}"]
            middle = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            rows.append([f"{processes}", *cells, middle])
    header = ["processes", "compute", "beside it", "all-reduce", "pairs/s, predicted", "measured", "ratio (range)"]
    return table(header, rows)


def print_table() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "cluster", "steps", "process"], help="process: steps starts it")
    parser.add_argument("--pairs", type=int, default=16, help="that a GPU computes at a time")
    parser.add_argument("--tokens", type=int, default=128, help="a pair, padding included")
    parser.add_argument(
        "--flops", type=float, default=989e12, help="of a GPU in bf16, a second: NVIDIA's for the H100 SXM"
    )
    parser.add_argument("--utilization", type=float, default=0.3, help="the share of them that training reaches")
    parser.add_argument("--inside", type=float, default=450e9, help="bytes/s from GPU to GPU: NVIDIA's for its NVLink")
    parser.add_argument(
        "--between", type=float, default=50e9, help="bytes/s from machine to machine, a GPU: 400 Gbit/s"
    )
    parser.add_argument("--config", default="configs/demo.yaml", help="of the runs that are measured")
    parser.add_argument("words", nargs="*", help="flags of these runs, after --")
    asked = parser.parse_args()
    if asked.what == "memory":
        print(memory_table(asked.pairs, asked.tokens))
    elif asked.what == "cluster":
        rates = asked.flops, asked.utilization, asked.inside, asked.between
        print(cluster_table(asked.pairs, asked.tokens, *rates))
    elif asked.what == "process":
        measure_process(asked.config, [*map(int, asked.words)])
    else:
        print(steps_table(asked.config, asked.words))


if __name__ == "__main__":
    print_table()
