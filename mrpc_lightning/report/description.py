"""What the pairs are, before any training: as values, as text and as a page."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.pairs import hashes
from mrpc_lightning.pairs.sources import pieces
from mrpc_lightning.pairs.tokens import lengths, tokenize
from mrpc_lightning.report import caveats, metrics, overlap, plots, subsets
from mrpc_lightning.report.page import fill
from mrpc_lightning.text import as_markdown, count, duration, printable, shorten

DRAWN = 10_000  # pairs of a split whose tokens are counted, at most
EXAMPLES = 10
UNCUT = 2**16 - 1  # tokens: what `lengths` can count
WIDTHS = (32, 64, 128, 256, 512)  # tokens that people choose for data.max_length


def describe(data: MRPCDataModule, epoch: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Describe the training and validation pairs, and the test pairs if `test` scores them.

    Args:
        data: The data, set up for "fit".
        epoch: What `rehearsal.rehearse` returned.
        seed: Seed of the pairs that are shown.

    Returns:
        `splits`, see `_split`, and in those beside training `in_training`, the pairs that are training pairs, and
        `sharing`, the others of which a sentence is in a training pair; `longer_than`, the share of training pairs with
        more than so many tokens; `baselines` on the validation pairs; `epoch`; `warnings`; and `examples`, training
        pairs drawn at random. Pairs are the same where they differ in the order of sentences, case or spaces alone.
    """
    names = ["train", "validation"]
    if data.test_split == "test":
        data.add("test", data.read("test"), cache=True)
        names.append("test")
    known = {name: hashes.of_pairs(data.pairs[name]) for name in names}
    splits = {name: _split(data, name, known[name][0]) for name in names}
    validation = data.pairs["validation"]
    for name in names[1:]:
        splits[name]["in_training"], splits[name]["sharing"] = hashes.shared(known[name], *known["train"])
    accuracy, f1 = metrics.baseline(splits["validation"]["positives"], len(validation))
    labels = numpy.array(validation["label"][:], dtype=numpy.int64)
    pairs = validation["sentence1"][:], validation["sentence2"][:], validation["idx"][:]
    scored = metrics.Scored(labels, metrics.both(labels.astype(numpy.float64)), None, *pairs)
    of_overlap = overlap.score(scored, overlap.fit(data.pairs["train"]))
    warnings = [
        f"{count(split['contradictory'], 'pair')} of {split['source']} ({name}) with both labels"
        for name, split in splits.items()
        if split["contradictory"]
    ]
    if len(validation) < caveats.FEW:
        warnings.append(
            f"metrics of {count(len(validation), 'validation pair')} say little: have {caveats.FEW} or more"
        )
    tokens = numpy.array(splits["train"]["lengths"])
    longer = {width: float(tokens[width + 1 :].sum() / tokens.sum()) for width in WIDTHS if width < len(tokens)}
    drawn = numpy.random.default_rng(seed).permutation(len(data.pairs["train"]))[:EXAMPLES]
    return {
        "label_names": [*data.hparams["label_names"]],
        "encoder": data.hparams["model_name"],
        "max_length": data.hparams["max_length"],
        "splits": splits,
        "longer_than": longer or {WIDTHS[0]: 0.0},
        "baselines": {
            "accuracy": accuracy,
            "accuracy_class": data.hparams["label_names"][int(2 * labels.sum() >= len(labels))],
            "f1": f1,
            **{name: value for name, value in of_overlap.items() if name != "overlap_margins"},  # there is no model
        },
        "epoch": epoch,
        "warnings": [*warnings, *caveats.of_pairs(data)[0], *caveats.of_ancestors(data, "validation")[0]],
        "examples": [dict(data.pairs["train"][int(row)]) for row in drawn],
    }


def _split(data: MRPCDataModule, name: str, pair_hashes: hashes.Hashes) -> dict[str, Any]:
    """Describe one split.

    Returns:
        `source`, `pairs`, `positives`, `rows_left_out`; `cut`, pairs longer than data.max_length; `repeated`, pairs
        that came before in the split; `contradictory`, different pairs that occur with both labels; and of up to
        `DRAWN` pairs, before they are cut, `tokens` and `lengths`: how many of them have 0, 1, 2, ... tokens.
    """
    pairs = data.pairs[name]
    drawn = numpy.random.default_rng(0).permutation(len(pairs))[:DRAWN]
    tokens = lengths(tokenize(data.load_tokenizer(), pairs.select(drawn), UNCUT)[0]).astype(numpy.int64)
    median, high = (int(numpy.quantile(tokens, share, method="inverted_cdf")) for share in (0.5, 0.95))
    longest = int(max(tokens.max(), lengths(data.tokens[name]).max()))  # of all pairs, unless some are cut
    labels = numpy.concatenate([numpy.array(piece["label"][:], dtype=numpy.int64) for piece in pieces(pairs)])
    different, which = numpy.unique(pair_hashes, return_inverse=True)
    seen = [numpy.bincount(which[labels == label], minlength=len(different)) > 0 for label in (0, 1)]
    return {
        "source": data.source(name),
        "pairs": len(pairs),
        "positives": int(labels.sum()),
        "rows_left_out": data.reader.left_out.get(name, 0),
        "tokens": {"of": len(drawn), "median": median, "percentile_95": high, "longest": longest},
        "cut": data.cut[name],
        "repeated": len(pairs) - len(different),
        "contradictory": int((seen[0] & seen[1]).sum()),
        "lengths": numpy.bincount(tokens).tolist(),
    }


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of the splits, its header first."""
    splits, names = found["splits"], found["label_names"]
    cells: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "pairs": lambda one: f"{one['pairs']:,}",
        f'"{names[1]}"': lambda one: f"{one['positives'] / one['pairs']:.1%}",
        f'"{names[0]}"': lambda one: f"{1 - one['positives'] / one['pairs']:.1%}",
        "tokens: median": lambda one: f"{one['tokens']['median']:,}",
        "tokens: 95 % have at most": lambda one: f"{one['tokens']['percentile_95']:,}",
        "tokens: the longest": lambda one: f"{one['tokens']['longest']:,}",
        f"cut at data.max_length {found['max_length']}": lambda one: f"{one['cut']:,}",
        "repeated pairs": lambda one: f"{one['repeated']:,}",
        "pairs with both labels": lambda one: f"{one['contradictory']:,}",
        "also training pairs": lambda one: f"{one['in_training']:,}" if "in_training" in one else "",
        "others that share a sentence": lambda one: f"{one['sharing']:,}" if "in_training" in one else "",
        "rows left out": lambda one: f"{one['rows_left_out']:,}",
    }
    return [["", *splits], *([title, *map(cell, splits.values())] for title, cell in cells.items())]


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return what the table does not say: baselines, lengths and the time of an epoch."""
    of, epoch, positive = found["baselines"], found["epoch"], printable(found["label_names"][1])
    number = metrics.number
    longer = [f"{width} tokens {share:.1%}" for width, share in found["longer_than"].items()]
    larger, accuracy, f1 = printable(of["accuracy_class"]), number(of["accuracy"]), number(of["f1"])
    always = f'accuracy {accuracy} and always "{positive}" ' if larger != positive else f"accuracy {accuracy} and "
    return [
        f'on the validation pairs always "{larger}" has {always}F1 {f1}',
        f"word overlap has accuracy {number(of['overlap_accuracy'])} and F1 {number(of['overlap_f1'])}, with "
        f'"{positive}" from {of["overlap_threshold"]:.1%} of common words on, the best threshold for training pairs',
        f"training pairs that are longer than {', '.join(longer)}",
        f"an epoch takes about {duration(max(epoch['seconds'], 1))} here, without its validation: "
        f"{count(epoch['steps'], 'optimizer step')}, {epoch['pairs_per_second']:,.0f} pairs/s with one process "
        f"({epoch['device']}, {epoch['precision']}), {epoch['padding']:.1%} padding; measured over "
        f"{epoch['timed_pairs']:,} pairs",
    ]


def text(found: Mapping[str, Any]) -> str:
    """Return a description as lines for the terminal."""
    names = list(map(printable, found["label_names"]))
    lines = [as_markdown(rows(found)), *sentences(found)]
    lines += [printable(f"warning: {warning}") for warning in found["warnings"]]
    lines.append("\n" + f"{count(len(found['examples']), 'training pair')}, drawn at random:")
    for pair in found["examples"]:
        lines.append(f"  {names[pair['label']]}")
        lines += [f"    {shorten(printable(pair[side]), 150)}" for side in ("sentence1", "sentence2")]
    return "\n".join(lines)


def page(found: Mapping[str, Any]) -> str:
    """Return a description as a page that needs nothing else."""
    curves = {name: split["lengths"] for name, split in found["splits"].items()}
    examples = [
        {
            "label": found["label_names"][pair["label"]],
            "idx": pair["idx"],
            "sentences": subsets.differences(pair["sentence1"], pair["sentence2"]),
        }
        for pair in found["examples"]
    ]
    return fill(
        "description.html.jinja",
        title=f"The pairs of {found['splits']['train']['source']}",
        found=found,
        rows=rows(found),
        sentences=sentences(found),
        picture=plots.svg(plots.widths(curves, found["max_length"])),
        limit=DRAWN,
        examples=examples,
    )
