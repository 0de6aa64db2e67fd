from pathlib import Path

from mrpc_lightning import demo
from mrpc_lightning.pairs.checks import check
from mrpc_lightning.pairs.sources import COLUMNS, read_hub
from tools import make_demo

ROOT = Path(__file__).resolve().parent.parent


def test_the_shipped_files_are_what_the_generator_makes(tmp_path: Path) -> None:
    make_demo.main(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (demo.FOLDER / path.name).read_bytes(), path.name


def test_no_pair_stands_in_both_splits_in_either_order_and_negatives_share_most_words() -> None:
    names = ["not_equivalent", "equivalent"]
    splits = {split: check(table, COLUMNS, names, True)[0] for split, table in read_hub("demo", None).items()}
    keys = {s: {frozenset((p["sentence1"], p["sentence2"])) for p in rows} for s, rows in splits.items()}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 4000, "validation": 500}
    assert {split: len(found) for split, found in keys.items()} == {"train": 4000, "validation": 500}
    assert not keys["train"] & keys["validation"]

    def overlap(pair: dict[str, str]) -> float:
        first, second = (set(pair[name].lower().replace(",", "").rstrip(".").split()) for name in COLUMNS[:2])
        return len(first & second) / len(first | second)

    means = [
        sum(found) / len(found)
        for found in ([overlap(p) for p in splits["train"] if p["label"] == label] for label in (0, 1))
    ]
    assert means[0] > 0.5 and abs(means[0] - means[1]) < 0.15
