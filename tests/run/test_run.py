import os
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from mrpc_lightning.errors import InputError
from mrpc_lightning.origin import read_checkpoint
from mrpc_lightning.report.metrics import baseline
from mrpc_lightning.run.run import Run, find_checkpoint
from mrpc_lightning.text import duration


def make_run(logs: Path, name: str, age: int) -> Path:
    path = logs / name / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    os.utime(path, (10_000 - age, 10_000 - age))
    return path


def test_best_means_the_newest_run_that_has_one(tmp_path: Path) -> None:
    newest = make_run(tmp_path, "mrpc/version_1", age=1)
    older = make_run(tmp_path, "mrpc/version_2", age=2)
    (tmp_path / "mrpc/version_3/checkpoints").mkdir(parents=True)
    assert find_checkpoint("best", tmp_path) == newest
    assert find_checkpoint(str(older.parent.parent), tmp_path) == older
    assert find_checkpoint(str(older), tmp_path) == older
    with pytest.raises(InputError, match="last: .*no run in"):
        find_checkpoint("last", tmp_path)
    assert Run.of(newest).folder == tmp_path / "mrpc/version_1"
    assert Run.of(tmp_path / "moved.ckpt").folder == tmp_path


def test_a_named_run_takes_an_empty_folder_and_leaves_one_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    run = Run.new(tmp_path, "mine")
    run.release()  # nothing was written; but the folder was there before
    assert run.folder.is_dir()
    run.write("config.yaml", "seed_everything: 1")
    with pytest.raises(InputError, match="mine: holds a run already"):
        Run.new(tmp_path, "mine")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_a_checkpoint_runs_no_code_and_must_be_ours(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save({"encoder_config": Bomb()}, tmp_path / "bomb.ckpt")
    with pytest.raises(InputError, match="nothing of it was run"):
        read_checkpoint(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "exploded").exists()
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="not a checkpoint of mrpc_lightning"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_the_baseline_is_that_of_mrpcs_validation_split() -> None:
    accuracy, f1 = baseline(279, 408)
    labels = [1] * 279 + [0] * 129
    assert accuracy == pytest.approx(accuracy_score(labels, [1] * 408))
    assert f1 == pytest.approx(f1_score(labels, [1] * 408))
    assert (round(100 * accuracy, 2), round(100 * f1, 2)) == (68.38, 81.22)


def test_durations_read_as_a_person_says_them() -> None:
    assert [duration(seconds) for seconds in (4.4, 75, 3725)] == ["4 s", "1 min 15 s", "1 h 2 min"]
