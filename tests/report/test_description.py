"""`describe` beside counts by pandas and plain Python."""

import json
from pathlib import Path

import pandas
import pytest
from helpers import TINY, fails, make_rows, write_csv
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoTokenizer

from mrpc_lightning import main

ROWS = [
    ("Rents rose in Oslo.", "In Oslo rents rose.", 1),
    ("in oslo  rents rose.", "RENTS rose in Oslo.", 1),  # the first again, in the other order
    ("In Oslo rents rose.", "Rents rose in Oslo.", 0),  # and with the other label
    ("It rains in Vienna.", "Vienna is dry.", 0),
    ("It rains in Vienna.", "Vienna is wet.", 1),
]
VALIDATION = [
    ("vienna is DRY.", "It rains in  Vienna.", 0),  # a training pair
    ("Vienna is wet.", "Nobody stays dry in Vienna.", 1),  # shares a sentence with one
    ("Prices fell in Lisbon.", "Lisbon has lower prices.", 1),
]


def describe(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    main(["describe", *TINY, *words])
    return capsys.readouterr().out


def test_counts_are_those_of_pandas(
    project: Path, encoder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, validation = ROWS + make_rows(60), VALIDATION + make_rows(25, seed=1)
    write_csv(project / "train.csv", rows)
    write_csv(project / "validation.csv", validation)
    text = describe(capsys, f"--model.model_name={encoder}", "--data.max_length=16", "--output=pairs.json")
    found = json.loads((project / "pairs.json").read_text())
    assert not (project / "tb_logs").exists()

    keys = {}
    for name, table in (("train", rows), ("validation", validation)):
        frame = pandas.DataFrame(table, columns=["sentence1", "sentence2", "label"])
        for side in ("sentence1", "sentence2"):
            frame[side] = frame[side].str.lower().str.split().str.join(" ")
        frame["key"] = frame.apply(lambda row: tuple(sorted([row["sentence1"], row["sentence2"]])), axis=1)
        keys[name], split = frame, found["splits"][name]
        assert (split["pairs"], split["positives"]) == (len(frame), frame["label"].sum())
        assert split["repeated"] == frame["key"].duplicated().sum()
        assert split["contradictory"] == (frame.groupby("key")["label"].nunique() == 2).sum()
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        counts = [len(tokenizer(first, second)["input_ids"]) for first, second, _ in table]
        assert split["cut"] == sum(count > 16 for count in counts) > 0
        assert split["tokens"]["longest"] == max(counts)
        assert split["tokens"]["median"] == sorted(counts)[(len(counts) - 1) // 2]
        assert split["lengths"] == [counts.count(length) for length in range(max(counts) + 1)]
    assert found["splits"]["train"]["repeated"] >= 2 and found["splits"]["train"]["contradictory"] >= 1
    same = keys["validation"]["key"].isin(keys["train"]["key"])
    sentences = {*keys["train"]["sentence1"], *keys["train"]["sentence2"]}
    sharing = keys["validation"][["sentence1", "sentence2"]].isin(sentences).any(axis=1) & ~same
    of = found["splits"]["validation"]
    assert (of["in_training"], of["sharing"]) == (same.sum(), sharing.sum())
    assert same[0] and sharing[1] and not sharing[2] and not same[2]

    labels = keys["validation"]["label"]
    assert found["baselines"]["f1"] == pytest.approx(f1_score(labels, [1] * len(labels)))
    larger = int(labels.mean() >= 0.5)
    assert found["baselines"]["accuracy"] == pytest.approx(accuracy_score(labels, [larger] * len(labels)))
    assert any("with both labels" in warning for warning in found["warnings"])
    assert {(one["sentence1"], one["sentence2"], one["label"]) for one in found["examples"]} <= {*rows}
    for shown in ("also training pairs", "an epoch takes about", "warning: "):
        assert shown in text


def test_its_baselines_are_those_of_a_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's metrics.json has both baselines of the same pairs."""
    describe(capsys, "--ckpt_path=last", "--output=pairs.json")
    found = json.loads((trained / "pairs.json").read_text())["baselines"]
    run = json.loads((trained / "tb_logs/mrpc/version_0/metrics.json").read_text())
    assert found["accuracy"] == run["baseline_accuracy"] and found["f1"] == run["baseline_f1"]
    for name in ("overlap_accuracy", "overlap_f1", "overlap_threshold"):
        assert found[name] == run[name]


def test_an_epoch_is_counted_as_it_is_trained(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["describe", *arguments, "--data.global_batch_size=8", "--data.both_orders=true", "--output=pairs.json"])
    epoch = json.loads((project / "pairs.json").read_text())["epoch"]
    assert epoch["steps"] == 2 * 8  # 60 pairs, 8 a step, in both orders
    assert epoch["seconds"] == pytest.approx(120 / epoch["pairs_per_second"])
    main(["fit", *arguments, "--data.global_batch_size=8", "--data.both_orders=true"])
    run = json.loads((project / "tb_logs/mrpc/version_0/metrics.json").read_text())
    assert run["optimizer_step"] % 16 == 0
    assert epoch["padding"] == pytest.approx(run["training_padding"], abs=0.02)  # of two epochs, in another order


def test_a_page_says_the_same(project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(project / "test.csv", make_rows(30, seed=2))
    words = [*arguments, "--data.test_file=test.csv"]
    text = describe(capsys, *words, "--output=pairs.html")
    page = (project / "pairs.html").read_text()
    assert "<script" not in page and "src=" not in page and "<link" not in page
    for name in ("train", "validation", "test"):
        assert f">{name}</th>" in page and name in text
    assert page.count('class="mistake"') == 10


@pytest.mark.parametrize("words", [["--model.reinit_layers=1"], ["--model.freeze_embeddings=true"]])
def test_what_fit_takes_is_described(trained: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "an epoch takes" in describe(capsys, "--model.model_name=tb_logs/mrpc/version_0", *words)


def test_padding_is_that_of_the_batches(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["describe", *arguments, "--data.padding=max_length", "--data.pad_to_multiple_of=32", "--output=pairs.json"])
    found = json.loads((project / "pairs.json").read_text())
    tokens = sum(length * pairs for length, pairs in enumerate(found["splits"]["train"]["lengths"]))
    assert found["epoch"]["padding"] == pytest.approx(1 - tokens / (60 * 64))  # 48, rounded up to 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output=pairs.txt"], "--output pairs.txt: a file's name that ends with .html or .json"),
        (["--output=nowhere/pairs.html"], "in a folder that is there"),
        (["--data.train_file=none.csv"], "none.csv: no such file"),
        (["--folds=3"], "unexpected argument --folds"),
    ],
)
def test_mistakes_are_said_in_one_line(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in fails(capsys, ["describe", *arguments, *words])
