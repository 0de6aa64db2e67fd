"""What a run keeps of its pairs finds them again in any order, case and spacing, and gives away no sentence."""

import random
from typing import Any

import torch
from datasets import Dataset
from helpers import make_rows

from mrpc_lightning.pairs.hashes import count, keep
from mrpc_lightning.pairs.sources import digest

WORDS = ["rents", "rose", "fell", "Oslo", "STRASSE", "straße", "in"]


def dataset(pairs: list[tuple[str, str]]) -> Dataset:
    first, second = zip(*pairs, strict=True)
    return Dataset.from_dict({"sentence1": first, "sentence2": second, "label": [0] * len(pairs)})


def draw(generator: random.Random, pairs: int) -> list[tuple[str, str]]:
    def sentence() -> str:
        return generator.choice([" ", "  "]).join(generator.choices(WORDS, k=generator.randint(1, 3))) + " "

    return [(sentence(), sentence()) for _ in range(pairs)]


def remember(pairs: dict[str, Dataset], source: str) -> dict[str, Any]:
    return keep(pairs, {split: digest(one) for split, one in pairs.items()}, source)


def test_pairs_and_single_sentences_are_counted_as_a_comparison_of_the_sentences_counts_them() -> None:
    generator = random.Random(0)
    runs, scored = [draw(generator, 30), draw(generator, 30)], draw(generator, 400)
    plain = [[tuple(sorted(s.casefold().strip().replace("  ", " ") for s in pair)) for pair in r] for r in runs]
    pairs = {pair for run in plain for pair in run}
    sentences = {sentence for pair in pairs for sentence in pair}
    same = sharing = 0
    for pair in scored:
        own = tuple(sorted(s.casefold().strip().replace("  ", " ") for s in pair))
        same += own in pairs
        sharing += own not in pairs and (own[0] in sentences or own[1] in sentences)
    kept = [remember({"train": dataset(run)}, "x")["trained_on"] for run in runs]
    assert count(dataset(scored), kept) == (same, sharing) and 0 < same < 400 and sharing > same
    # Both sentences known, but of different pairs: no pair that was trained on.
    kept = [remember({"train": dataset([("a", "b"), ("c", "d")])}, "x")["trained_on"]]
    assert count(dataset([("b", "a"), ("a", "c"), ("x", "D"), ("x", "y"), ("a b", "c")]), kept) == (1, 3)


def test_what_is_kept_is_the_same_in_each_process_and_holds_no_sentence() -> None:
    pairs = dataset([(first, second) for first, second, _ in make_rows(60)])
    kept = remember({"train": pairs, "validation": pairs.select(range(5))}, "train.csv")
    assert kept["digests"] == {"train": digest(pairs), "validation": digest(pairs.select(range(5)))}
    about = kept["trained_on"]
    assert (about["training_source"], about["training_pairs"]) == ("train.csv", 60)
    assert about["training_digest"] == digest(pairs)
    sentences = {*pairs["sentence1"], *pairs["sentence2"]}
    assert about["sentence_hashes"].dtype == torch.int64 and len(about["sentence_hashes"]) == len(sentences)
    assert remember({"validation": pairs}, "x").keys() == {"digests"}
    # BLAKE2b with 8 bytes of "a", read little-endian: by `printf a | b2sum -l 64`.
    [known] = remember({"train": dataset([("A", " a")])}, "x")["trained_on"]["sentence_hashes"].tolist()
    assert known.to_bytes(8, "little", signed=True).hex() == "40f89e395b66422f"
