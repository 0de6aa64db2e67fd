"""`study`: what it runs, what it says of what came out, and that killing it changes nothing."""

import contextlib
import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
from helpers import Forked, fails

from mrpc_lightning import main
from mrpc_lightning.errors import InputError
from mrpc_lightning.study.plan import settings, units

GRID = ["--grid", "model.learning_rate=1e-3,3e-3"]
STUDY = Path("tb_logs/study")


def test_a_grid_is_every_combination_with_the_first_values_first() -> None:
    found = settings(["model.learning_rate=2e-5,5e-5", "data.batch_size=16,32"])
    names = [setting.name for setting in found]
    assert names[0] == "learning_rate 2e-5, batch_size 16" and names[1] == "learning_rate 2e-5, batch_size 32"
    assert found[3].flags == ["--model.learning_rate=5e-5", "--data.batch_size=32"]
    assert [setting.name for setting in settings([])] == ["as configured"]
    assert settings(["model.label_names=[a,b],[c,d]"])[1].flags == ["--model.label_names=[c,d]"]
    planned = units(Path("s"), found, 2)
    assert [unit.seed for unit in planned] == [1] * 4 + [2] * 4, "every setting sees the same seeds"
    assert len({unit.run.folder for unit in planned}) == 8


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        (["model.learning_rate"], "give key=value,value"),
        (["model.learning_rate=1,,2"], "give key=value,value"),
        (["model.learning_rate=1,1"], "the same value twice"),
        (["model.warmup=1", "model.warmup=2"], "the same key twice"),
        (["seed_everything=1,2"], "every setting sees the same seeds"),
        (["trainer.logger.name=a,b"], "the same for all runs"),
        (["data.train_file=a/b,a-b"], "a setting's folder is named after its values"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(grid: list[str], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        settings(grid)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds=0"], "--seeds 0"),
        (["--grid", "model.learning_rat=1,2"], "model.learning_rate"),
        (["--grid", "data.batch_size=8,sixteen"], "--data.batch_size sixteen: expected int"),
        (["--grid", "data.batch_size=16,016"], "the same as another setting"),
        (["--name=../other"], "--name ../other: a folder's name"),
        (["--seed_everything=3"], "say how many with --seeds"),
        (["--ckpt_path=last"], "--ckpt_path: a study makes runs of its own"),
        (["--trainer.logger=false"], "TensorBoardLogger or CSVLogger"),
        (["somewhere", "--seeds=2"], "unexpected argument somewhere"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_before_anything_runs(
    words: list[str], message: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, ["study", *arguments, *words])
    assert not Path("tb_logs").exists()


def make_runs(arguments: list[str], seeds: int) -> None:
    """Train a study's runs in this process: what they leave is what those of a study leave."""
    for unit in units(STUDY, settings(GRID[1:]), seeds):
        main(["fit", *arguments, *unit.flags])


def test_the_tables_are_those_of_the_runs(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    make_runs(arguments, 2)
    capsys.readouterr()
    main(["study", *arguments, "--seeds=2", *GRID])
    printed = capsys.readouterr().out
    assert "4 runs: 2 settings x 2 seeds; 4 are done" in printed
    found = json.loads((STUDY / "study.json").read_text())
    for setting, name in zip(found["settings"], ("1e-3", "3e-3"), strict=True):
        metrics = [
            json.loads((STUDY / f"learning_rate={name}/seed_{seed}/metrics.json").read_text()) for seed in (1, 2)
        ]
        assert setting["f1"]["mean"] == pytest.approx(numpy.mean([one["f1"] for one in metrics]))
        assert setting["accuracy"]["sd"] == pytest.approx(numpy.std([one["accuracy"] for one in metrics], ddof=1))
        assert setting["last_f1"]["max"] == max(one["epochs"][-1]["val_f1"] for one in metrics)
        assert f"{100 * setting['f1']['mean']:.2f}" in printed
    # Neither has learned anything in two epochs: none is called the best.
    assert found["best"] is None and not (STUDY / "best.yaml").exists()
    assert all(setting["f1"]["mean"] <= metrics[0]["baseline_f1"] for setting in found["settings"])
    assert "runs collapsed to one class" in printed
    assert {one["verdict"] for one in found["comparisons"]} == {"too few seeds to tell"}
    page = (STUDY / "study.html").read_text()
    assert page.count("<svg") >= 1 and "too few seeds to tell" in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    # Another recipe under the same name would be compared with what it is not.
    message = fails(capsys, ["study", *arguments, "--seeds=2", *GRID, "--trainer.max_epochs=3"])
    assert "is a run with --trainer.max_epochs 2, not 3" in message


def comparable(path: Path) -> Any:
    """What a study has found, but for the clock."""
    found = json.loads(path.read_text())
    for setting in found["settings"]:
        for run in (setting, *setting["runs"]):
            run.pop("seconds")
    return found


def kill_runs() -> int:
    """Kill every run that is trained here; return how many there were."""
    killed = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if (process / "cwd").readlink() == Path.cwd() and b"\0fit\0" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
                killed += 1
    return killed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_study_killed_at_random_moments_ends_as_one_that_was_not(project: Path, arguments: list[str]) -> None:
    words = ["study", *arguments, "--trainer.max_epochs=6", "--checkpoint_every=1", "--workers=2", *GRID]
    whole = Forked([*words, "--seeds=2"])
    assert whole.wait() == 0, whole.communicate()
    STUDY.rename("whole")
    moments, kills = random.Random(0), []
    for _ in range(3):
        process, began = Forked([*words, "--seeds=2"]), time.time()
        while process.poll() is None and not any(
            path.stat().st_mtime > began for path in STUDY.glob("*/*/checkpoints/last.ckpt")
        ):
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.wait()
        kills.append(kill_runs())
    assert sum(kills) > 0
    for seeds in (1, 2):  # one that is extended
        process = Forked([*words, f"--seeds={seeds}"])
        assert process.wait() == 0, process.communicate()
    first, second = comparable(Path("whole/study.json")), comparable(STUDY / "study.json")
    assert first == second
