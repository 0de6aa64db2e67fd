"""What encoders cost and need: the table of docs/encoder.md.

    python benchmarks/encoders.py --rounds 3

Nothing is downloaded: sizes follow from the shapes, and speed is measured on this CPU with random weights.
"""

import argparse
import statistics
from typing import Any

import scaling
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import AutoConfig, AutoModelForSequenceClassification

from mrpc_lightning.cli.instant import keep_memory
from mrpc_lightning.nn.optim import make_optimizer
from mrpc_lightning.nn.precision import choose_precision
from mrpc_lightning.nn.speedups import make_fast

Shape = dict[str, Any]  # what an encoder's config.json says that is not its class's default

PAIRS, TOKENS = 16, 128  # of the column "GPU memory"
WIDTH = 52  # tokens of the longest pair of a step that is timed; the others have up to four fewer
STEPS = 3  # that are timed in a round, after one that is not
BEST, LAST = 4, 12  # bytes a parameter of a checkpoint: the weight alone, and with AdamW's two moments
# What these keep for the backward pass, as a multiple of what `scaling.activations`, which was fitted to BERT, says:
# DeBERTa's attention is not a fused one, and ALBERT's activation function is made of many operations.
KEPT = {"deberta-v2": 2.0, "albert": 1.4}
DOWNLOAD = {"microsoft/deberta-v3-base": 371e6}  # published in fp16; the other downloads have 4 bytes a parameter

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
DISTILBERT = {"model_type": "distilbert", "intermediate_size": 3072}  # hidden_dim there; this is what `scaling` reads
ELECTRA = {"model_type": "electra", "embedding_size": 768}
ROBERTA = {"model_type": "roberta", "max_position_embeddings": 514, "type_vocab_size": 1}
XLM = {"model_type": "xlm-roberta", "vocab_size": 250002}
DEBERTA = {
    "model_type": "deberta-v2",
    "layer_norm_eps": 1e-7,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}
WORDPIECE, BPE, SENTENCEPIECE = "WordPiece", "byte-level BPE", "SentencePiece"
ENCODERS: dict[str, tuple[Shape, str, str]] = {
    "google-bert/bert-base-uncased": ({"model_type": "bert"}, WORDPIECE, "uncased"),
    "google-bert/bert-large-uncased": ({"model_type": "bert", **LARGE}, WORDPIECE, "uncased"),
    "distilbert/distilbert-base-uncased": (DISTILBERT, WORDPIECE, "uncased"),
    "FacebookAI/roberta-base": (ROBERTA, BPE, "cased"),
    "FacebookAI/roberta-large": ({**ROBERTA, **LARGE}, BPE, "cased"),
    "google/electra-small-discriminator": ({"model_type": "electra"}, WORDPIECE, "uncased"),
    "google/electra-base-discriminator": ({**ELECTRA, **BASE}, WORDPIECE, "uncased"),
    "microsoft/deberta-v3-base": ({**DEBERTA, **BASE}, SENTENCEPIECE, "cased"),
    "answerdotai/ModernBERT-base": ({"model_type": "modernbert"}, BPE, "cased"),
    "albert/albert-base-v2": ({"model_type": "albert", **BASE}, SENTENCEPIECE, "uncased"),
    "nreimers/MiniLM-L6-H384-uncased": ({"model_type": "bert", **MINILM}, WORDPIECE, "uncased"),
    "FacebookAI/xlm-roberta-base": ({**ROBERTA, **XLM}, SENTENCEPIECE, "cased"),
}


def memory(shape: Shape) -> float:
    """Return the bytes that training needs on a GPU, without what the library and the driver take."""
    config: Any = AutoConfig.for_model(**shape)
    of = scaling.describe(shape)._replace(layers=config.num_hidden_layers)  # ALBERT's are one, used 12 times
    return scaling.STATES * of.parameters + KEPT.get(config.model_type, 1) * scaling.activations(of, PAIRS * TOKENS)


def longest(shape: Shape) -> int:
    """Return the tokens that an encoder takes at most; RoBERTa's positions begin above the padding token's id."""
    config: Any = AutoConfig.for_model(**shape)
    return int(config.max_position_embeddings - ("roberta" in config.model_type) * (config.pad_token_id + 1))


def seconds(shape: Shape, steps: int = STEPS) -> float:
    """Return the median seconds of a training step of 16 pairs, computed as this project does it on a CPU."""
    device = torch.device("cpu")
    is_bf16 = choose_precision(None, "cpu")[0] == "bf16-mixed"
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**shape)).train()
    make_fast(model, device)
    optimizer = make_optimizer(model, device, False, learning_rate=2e-5, weight_decay=0.01)
    mask = (torch.arange(WIDTH) < WIDTH - torch.arange(PAIRS)[:, None] % 5).long()
    tokens = torch.randint(5, model.config.vocab_size // 2, mask.shape)
    ids, labels = torch.where(mask == 1, tokens, model.config.pad_token_id), torch.arange(PAIRS) % 2

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16, cache_enabled=False):
            loss = cross_entropy(model(input_ids=ids, attention_mask=mask).logits, labels)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return scaling.timed(step, steps)


def row(name: str, speed: str) -> list[str]:
    """Return an encoder's row."""
    shape, tokenizer, case = ENCODERS[name]
    count = scaling.describe(shape).parameters
    sizes = [f"{one / 1e6:,.0f} MB" for one in (DOWNLOAD.get(name, 4 * count), BEST * count, LAST * count)]
    needs = [f"{memory(shape) / scaling.GIB:.1f} GiB", f"{longest(shape):,}", tokenizer, case]
    return [f"`{name}`", f"{count / 1e6:.0f} M", speed, *needs, *sizes]


def print_table() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="in each, all encoders are timed, one after the other")
    rounds = range(parser.parse_args().rounds)
    keep_memory()  # as `python -m mrpc_lightning` begins
    times = [{name: seconds(shape) for name, (shape, *_) in ENCODERS.items()} for _ in rounds]
    base, *_ = ENCODERS
    speeds = [f"{statistics.median(one[base] / one[name] for one in times):.2f}" for name in ENCODERS]
    needs = ["speed", "GPU memory", "longest input", "tokenizer", "case"]
    header = ["encoder", "parameters", *needs, "download", "best.ckpt", "last.ckpt"]
    print(scaling.table(header, list(map(row, ENCODERS, speeds))))
    rate = PAIRS / statistics.median(one[base] for one in times)
    print(f"\nspeed 1.00 is {rate:.1f} pairs a second, in {' '.join(choose_precision(None, 'cpu'))}")


if __name__ == "__main__":
    print_table()
