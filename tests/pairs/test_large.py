"""More pairs than memory should hold: all is as though memory held them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, config
from filelock import FileLock
from helpers import RUN, TINY, Forked, curve, fails, load, make_rows, wait_for, write_csv

from mrpc_lightning import MRPCDataModule, main
from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs import checks, hashes, large, reader, sources, tokens
from mrpc_lightning.pairs.files import Table

# What makes 60 pairs many: a piece has 16, and more than 32 stay on the disk.
SMALL = {"PIECE": 16, "LARGE": 32, "LARGE_FILE": 100}
PATCH = f"""
from mrpc_lightning.pairs import hashes, large, reader, sources, tokens
for module in (hashes, large, reader, sources, tokens):
    for name, value in {SMALL}.items():
        if hasattr(module, name):
            setattr(module, name, value)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache/mrpc_lightning"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hashes, large, reader, sources, tokens):
        for name, value in SMALL.items():
            monkeypatch.setattr(module, name, value, raising=False)


def made(encoder: str, **options: Any) -> MRPCDataModule:
    values = {"train_file": "train.csv", "validation_file": "validation.csv", "max_length": 48, **options}
    data = MRPCDataModule(encoder, **values)
    data.setup("fit")
    return data


def test_pairs_on_the_disk_are_those_in_memory(project: Path, encoder: str, request: pytest.FixtureRequest) -> None:
    held = [made(encoder, **options) for options in ({}, {"both_orders": True})]
    request.getfixturevalue("small")
    kept = [made(encoder, **options) for options in ({}, {"both_orders": True})]
    for one, other in zip(held, kept, strict=True):
        assert not one.pairs["train"].cache_files and len(other.pairs["train"].cache_files) == 4
        assert len(other.tokens["train"].cache_files) >= 2 + (large.cores() > 1), "several processes have a file each"
        assert other.pairs["train"].to_dict() == one.pairs["train"].to_dict()
        assert other.pairs["train"].features == one.pairs["train"].features
        assert other.tokens["train"].to_dict() == one.tokens["train"].to_dict() and other.cut == one.cut
        for first, second in zip(one.train_dataloader(), other.train_dataloader(), strict=True):
            assert first["input_ids"].tolist() == second["input_ids"].tolist()
    assert kept[0].reader.digests["train"] == sources.digest(kept[0].pairs["train"])


def test_what_is_killed_goes_on_with_the_piece_that_is_missing(
    project: Path, encoder: str, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    check = checks.check

    def check_some(table: Table, *rest: Any, **options: Any) -> Any:
        checked.append(table.first_row)
        if len(checked) == 3:
            raise KeyboardInterrupt
        return check(table, *rest, **options)

    monkeypatch.setattr(checks, "check", check_some)
    with pytest.raises(KeyboardInterrupt):
        made(encoder)
    assert checked == [0, 16, 32]
    assert len(made(encoder).pairs["train"]) == 60
    assert checked == [0, 16, 32, 32, 48, 0], "two pieces that were missing, and the validation pairs"
    again = made(encoder)
    assert checked[6:] == [0] and again.pairs["train"].to_dict() == check_all(encoder)
    for change in ("a row", "the labels"):
        if change == "a row":
            write_csv(Path("train.csv"), make_rows(61))
        other = made(encoder, label_names=["no", "yes"] if change == "the labels" else ["not_equivalent", "equivalent"])
        assert len(other.pairs["train"]) == 61
        assert other.pairs["train"].features["label"].names == other.hparams["label_names"]


def check_all(encoder: str) -> dict[str, Any]:
    rows = make_rows(60)
    return {
        "sentence1": [first for first, _, _ in rows],
        "sentence2": [second for _, second, _ in rows],
        "idx": [*range(60)],
        "label": [label for *_, label in rows],
    }


def test_what_is_wrong_is_said_as_always(
    project: Path, encoder: str, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Any] = make_rows(60)
    write_csv(Path("train.csv"), [*rows[:50], ("", "b", 1), *rows[50:]])
    with pytest.raises(InputError, match="train.csv, line 52: sentence1 is empty"):
        made(encoder)
    data = made(encoder, skip_bad_rows=True)
    assert len(data.pairs["train"]) == 60 and data.reader.left_out["train"] == 1
    with pytest.raises(InputError, match="train.csv: too large to hold pairs out .*; give data.validation_file"):
        made(encoder, validation_file=None)
    with pytest.raises(InputError, match="data.fold 1/3: train.csv is too large for folds"):
        made(encoder, fold="1/3")
    write_csv(Path("train.csv"), [(first, second, 1) for first, second, _ in rows])
    files = ["--data.train_file=train.csv", "--data.validation_file=validation.csv"]
    assert "training pair has the same label" in fails(capsys, ["fit", f"--model.model_name={encoder}", *files, *TINY])


def test_a_saved_data_set_stays_on_the_disk(project: Path, encoder: str, small: None) -> None:
    features = Features(
        {
            "sentence1": Value("string"),
            "sentence2": Value("string"),
            "label": ClassLabel(names=["not_equivalent", "equivalent"]),
        }
    )
    sets = {}
    for split, pairs in (("train", 60), ("validation", 25)):
        first, second, labels = zip(*make_rows(pairs), strict=True)
        sets[split] = Dataset.from_dict({"sentence1": first, "sentence2": second, "label": labels}, features)
    DatasetDict(sets).save_to_disk("saved")
    data = made(encoder, train_file=None, validation_file=None, data_dir="saved")
    assert data.pairs["train"].to_dict() == check_all(encoder) and len(data.pairs["train"].cache_files) == 4
    assert len(data.pairs["validation"]) == 25 and not data.pairs["validation"].cache_files


@pytest.mark.slow
def test_a_run_on_pairs_on_the_disk_is_the_one_on_pairs_in_memory(project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments])
    code = PATCH + "from mrpc_lightning.__main__ import entry; entry()"
    for words in (["fit", *arguments], ["fit", "--ckpt_path=last", "--trainer.max_epochs=3"]):
        trained = Forked(words, code)
        _, errors = trained.communicate(timeout=300)
        assert trained.returncode == 0, errors
    other = RUN.with_name("version_1")
    kept = load(other / "checkpoints/last.ckpt")["MRPCDataModule"]["trained_on"]
    assert kept["training_pairs"] == 60 and len(kept["pair_hashes"]) == 0
    for name in ("train_loss", "val_loss", "val_f1"):
        assert curve(other)[name][:2] == curve(RUN)[name] and len(curve(other)[name]) == 3


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_tokenizes_goes_on(project: Path, arguments: list[str], cache: Path) -> None:
    slow = (
        PATCH
        + f"""
import time
import datasets
datasets.config.HF_DATASETS_CACHE = {str(cache.parent)!r}
from mrpc_lightning.pairs import tokens
once = tokens.Dataset.map
def slowly(*given, **options):
    time.sleep(1)
    return once(*given, **options)
tokens.Dataset.map = slowly
from mrpc_lightning.__main__ import entry
entry()
"""
    )
    killed = Forked(["fit", *arguments], slow)
    while not [*cache.glob("tokens-*/0001*.arrow")]:
        assert killed.poll() is None
        os.sched_yield()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait(60)
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}
    finished = Forked(["fit", *arguments], slow)
    _, errors = finished.communicate(timeout=300)
    assert finished.returncode == 0, errors
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    wait_for(RUN.with_name("version_1") / "metrics.json")


@pytest.mark.slow
def test_processes_that_tokenize_end_with_the_one_that_started_them(project: Path, cache: Path) -> None:
    working = (
        PATCH
        + f"""
import os
import time
import datasets
datasets.config.HF_DATASETS_CACHE = {str(cache.parent)!r}
from mrpc_lightning.pairs import tokens
def encode(rows):
    with open(f"worker-{{os.getpid()}}", "a") as file:
        file.write("batch\\n")
    time.sleep(0.05)
    return {{"cut": [False] * len(rows["a"])}}
tokens.cores, tokens.PIECE, tokens.LARGE = lambda: 2, 1, 10**6
tokens.map_large(datasets.Dataset.from_dict({{"a": range(200_000)}}), encode, "key")
"""
    )
    Path("script.py").write_text(working)
    with subprocess.Popen([sys.executable, "script.py"], start_new_session=True) as killed:
        while len(workers := [*Path().glob("worker-*")]) < 2:
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
    time.sleep(2)
    done = [path.stat().st_size for path in workers]
    time.sleep(1)
    later = [path.stat().st_size for path in workers]
    os.killpg(killed.pid, signal.SIGKILL)  # a helper of `datasets` stays, idle
    assert later == done and sum(done) < 200 * len("batch\n")


def test_who_waits_for_another_process_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    has_it = threading.Event()

    def hold() -> None:
        with FileLock(tmp_path / ".lock"):
            has_it.set()
            time.sleep(0.5)

    threading.Thread(target=hold).start()
    has_it.wait()
    with large.working_in(tmp_path):
        assert capsys.readouterr().out == f"waiting for another process, which works in {tmp_path}\n"
    with large.working_in(tmp_path):
        assert capsys.readouterr().out == ""
