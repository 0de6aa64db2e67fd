"""Makes pairs without labels out of MRPC's training sentences, for `study --distill_file`.

    python benchmarks/more_pairs.py --out more.csv

Two thirds are steps: a sentence with some of the edits that turn it into its partner, beside one of the two. The others
are neighbours: sentences of two pairs that have many rare words in common. No sentence of the validation or of the test
split is in any of them.
"""

import argparse
import csv
import difflib
import random

from datasets import load_dataset
from sklearn.feature_extraction.text import TfidfVectorizer

NEIGHBOURS = 3000  # pairs at most, the most similar first
SIMILAR = (0.35, 0.999)  # cosine of two sentences' TF-IDF vectors


def plain(sentence: str) -> str:
    """Return a sentence without what differs in case and spaces alone."""
    return " ".join(sentence.casefold().split())


def step(first: str, second: str, rng: random.Random) -> str | None:
    """Return the first sentence with some of the edits that turn it into the second; None where there is but one."""
    words, others = first.split(), second.split()
    blocks = difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes()
    edits = [number for number, block in enumerate(blocks) if block[0] != "equal"]
    if len(edits) < 2:
        return None
    chosen = {*rng.sample(edits, rng.randint(1, len(edits) - 1))}
    made: list[str] = []
    for number, (_, begin, end, other_begin, other_end) in enumerate(blocks):
        made += others[other_begin:other_end] if number in chosen else words[begin:end]
    return " ".join(made)


def make(pairs: list[tuple[str, str]], kept_away: set[str], rng: random.Random) -> list[tuple[str, str]]:
    """Return the pairs that can be made of others.

    Args:
        pairs: Pairs of sentences.
        kept_away: Sentences that no pair may have, whatever their case and spaces.
        rng: Draws edits and orders.
    """
    kept_away = {*map(plain, kept_away)}

    def is_free(pair: tuple[str, str]) -> bool:
        return kept_away.isdisjoint(map(plain, pair))

    found: list[tuple[str, str]] = []
    for pair in pairs:
        for first, second in (pair, pair[::-1]) if is_free(pair) else ():
            made = step(first, second, rng)
            if made and made not in pair:
                found.append((made, rng.choice(pair)) if rng.random() < 0.5 else (rng.choice(pair), made))
    sentences = sorted({one for pair in pairs for one in pair if plain(one) not in kept_away})
    known = {frozenset(pair) for pair in pairs}
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(sentences)
    cosines = (vectors @ vectors.T).tocoo()
    places = zip(cosines.data.tolist(), cosines.row.tolist(), cosines.col.tolist(), strict=True)
    similar = [
        (cosine, row, column)
        for cosine, row, column in places
        if row < column
        and SIMILAR[0] <= cosine < SIMILAR[1]
        and frozenset((sentences[row], sentences[column])) not in known
    ]
    for _, row, column in sorted(similar, reverse=True)[:NEIGHBOURS]:
        pair = sentences[row], sentences[column]
        found.append(pair if rng.random() < 0.5 else pair[::-1])
    return [pair for pair in dict.fromkeys(found) if is_free(pair)]


def main() -> None:
    """Write the pairs of MRPC."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="more.csv", help="the file of pairs to write")
    path = parser.parse_args().out
    splits = load_dataset("nyu-mll/glue", "mrpc")
    sides = {name: (split["sentence1"][:], split["sentence2"][:]) for name, split in splits.items()}
    kept_away = {one for name in ("validation", "test") for side in sides[name] for one in side}
    made = make([*zip(*sides["train"], strict=True)], kept_away, random.Random(1))
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("sentence1", "sentence2"), *made])
    print(f"{path}: {len(made):,} pairs")


if __name__ == "__main__":
    main()
