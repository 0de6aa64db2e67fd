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
import torch
from helpers import Forked, fails, load, make_rows, read_predictions, write_csv
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from mrpc_lightning import main
from mrpc_lightning.errors import InputError
from mrpc_lightning.report import plots
from mrpc_lightning.study import tables
from mrpc_lightning.study.plan import Unit, settings, units

GRID = ["--grid", "model.learning_rate=1e-3,3e-3"]
STUDY = Path("tb_logs/study")


def test_a_grid_is_every_combination_with_the_first_values_first() -> None:
    found = settings(["model.learning_rate=2e-5,5e-5", "data.global_batch_size=16,32"])
    names = [setting.name for setting in found]
    assert names[0] == "learning_rate 2e-5, global_batch_size 16"
    assert names[1] == "learning_rate 2e-5, global_batch_size 32"
    assert found[3].words([]) == ["--model.learning_rate=5e-5", "--data.global_batch_size=32"]
    assert [setting.name for setting in settings([])] == ["as configured"]
    assert settings(["model.label_names=[a,b],[c,d]"])[1].words([]) == ["--model.label_names=[c,d]"]
    encoders = settings(["model.model_name=google-bert/bert-base-uncased,tb_logs/stsb/version_0"])
    folders = [setting.folder for setting in encoders]
    assert folders == ["model_name=google-bert-bert-base-uncased", "model_name=tb_logs-stsb-version_0"]
    assert encoders[1].words([]) == ["--model.model_name=tb_logs/stsb/version_0"]
    planned = units(Path("s"), found, 2)
    assert [unit.seed for unit in planned] == [1] * 4 + [2] * 4, "every setting sees the same seeds"
    assert len({unit.run.folder for unit in planned}) == 8


def test_a_settings_config_file_goes_after_the_others_and_before_all_flags() -> None:
    [_, second] = settings(["config=a.yaml,b.yaml"])
    shared = ["--config", "mrpc.yaml", "--model.learning_rate=3e-5"]
    assert second.words(shared) == ["--config", "mrpc.yaml", "--config=b.yaml", "--model.learning_rate=3e-5"]
    assert second.words(["-c=mrpc.yaml"]) == ["-c=mrpc.yaml", "--config=b.yaml"]
    assert second.words(["--trainer.max_epochs=2"]) == ["--config=b.yaml", "--trainer.max_epochs=2"]


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        (["model.learning_rate"], "write it as in --grid=model.learning_rate=2e-5,5e-5"),
        (["model.learning_rate=1,,2"], "write it as in --grid=model.learning_rate=2e-5,5e-5"),
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
        (["--grid", "data.global_batch_size=8,sixteen"], "--data.global_batch_size sixteen: expected int"),
        (["--grid", "data.global_batch_size=16,016"], "the same as another setting"),
        (["--name=../other"], "--name ../other: a folder's name"),
        (["--seed_everything=3"], "say how many with --seeds"),
        (["--folds=1"], "--folds 1: at least 2"),
        (["--folds=40"], "--data.fold 1/40: 60 training pairs are too few for 40 folds"),
        (["--grid", "seeds=1,2"], "--seeds: is the same for all runs of a study"),
        (["--data.train_file=nowhere.csv"], "nowhere.csv"),
        (["--folds=3", "--data.test_file=validation.csv"], "leave test_file, test_split out"),
        (["--folds=3", "--seeds=2", "--distill"], "--distill: needs a run for each of 3 folds; give --seeds 3"),
        (["--config=seeds: 3"], "seeds: is of the study, not of its runs"),
        (["--data.fold=1/3"], "say how many with --folds"),
        (["--ckpt_path=last"], "--ckpt_path: a study makes runs of its own"),
        (["--trainer.logger=false"], "TensorBoardLogger or CSVLogger"),
        (["somewhere", "--seeds=2"], "unexpected argument somewhere"),
        (["--trainer.fast_dev_run=true"], "a study compares whole runs; try one with fit"),
        (["--search", "model.warmup=0..1", "model.warmup=0..2"], "the same key twice"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_before_anything_runs(
    words: list[str], message: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, ["study", *arguments, *words])
    assert not Path("tb_logs").exists()


def make_runs(arguments: list[str], planned: list[Unit]) -> None:
    """Train a study's runs in this process: what they leave is what those of a study leave."""
    for unit in planned:
        main(["fit", *unit.words(arguments)])
        if unit.fold:
            main(["test", "--ckpt_path", str(unit.run.folder)])


def test_the_tables_are_those_of_the_runs(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    make_runs(arguments, units(STUDY, settings(GRID[1:]), 2))
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
    # What all runs warned of is said once; a metric of one run is not.
    assert printed.count("warning: all runs: the intervals are of 25 pairs") == 1
    assert "is below the baseline" not in printed
    assert {one["verdict"] for one in found["comparisons"]} == {"too few seeds to tell"}
    page = (STUDY / "study.html").read_text()
    assert page.count("<svg") >= 1 and "too few seeds to tell" in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    # More seeds have intervals, which a second picture shows.
    more = [{**one, "interval": [-0.01, 0.03], "over_pairs": [-0.05, 0.07]} for one in found["comparisons"]]
    known = tables.page({**found, "comparisons": more}, "a study", 2, "")
    [f1] = [one for one in more if one["metric"] == "f1"]
    picture = plots.differences([(f1["setting"], f1["mean"], (-0.01, 0.03), (-0.05, 0.07))])
    assert plots.svg(picture) in known and "<svg" in page and known.count("<svg") == page.count("<svg") + 1
    # A table of other settings says whose runs it leaves out.
    main(["study", *arguments, "--seeds=2", "--grid", "model.learning_rate=1e-3"])
    assert "not in this table: the runs of learning_rate=3e-3" in capsys.readouterr().out
    # Another recipe under the same name would be compared with what it is not.
    message = fails(capsys, ["study", *arguments, "--seeds=2", *GRID, "--trainer.max_epochs=3"])
    assert "is a run with --trainer.max_epochs 2, not 3" in message


def test_folds_score_every_training_pair_once_by_a_run_that_has_not_seen_it(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"{first} {row}", f"{second} {row}", label) for row, (first, second, label) in enumerate(make_rows(60))]
    write_csv(project / "train.csv", rows)
    arguments = [*arguments, "--model.learning_rate=3e-3"]
    make_runs(arguments, units(STUDY, settings([]), 3, 3))
    capsys.readouterr()
    main(["study", *arguments, "--folds=3"])
    assert "3 runs: 1 setting x 3 seeds; 3 are done" in capsys.readouterr().out
    [setting] = json.loads((STUDY / "study.json").read_text())["settings"]
    tables = [read_predictions(STUDY / f"runs/seed_{seed}/validation_predictions.csv") for seed in (1, 2, 3)]
    scored = [row for table in tables for row in table]
    assert sorted((row["sentence1"], row["sentence2"]) for row in scored) == sorted(row[:2] for row in rows)
    labels = numpy.array([row["label"] == "equivalent" for row in scored])
    positive = numpy.array([float(row["probability_equivalent"]) for row in scored])
    found = setting["out_of_fold"]
    assert found["f1"] == pytest.approx(f1_score(labels, positive > 0.5))
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, positive > 0.5))
    # The threshold is the best of all there are, and the temperature what a regression on the logit finds.
    best = max(f1_score(labels, positive >= threshold) for threshold in positive)
    assert found["tuned"]["f1"] == pytest.approx(best) == f1_score(labels, positive >= found["threshold"])
    logits = numpy.log(positive / (1 - positive))[:, None]
    regression = LogisticRegression(fit_intercept=False, C=1e9, tol=1e-10).fit(logits, labels)
    assert found["temperature"] == pytest.approx(1 / regression.coef_[0, 0], rel=1e-3)
    own = numpy.where(labels, positive, 1 - positive)
    assert [one["probability"] for one in setting["doubtful"]] == pytest.approx(sorted(own[own < 0.5])[:50])
    # The table's metrics are of the validation split, on which no epoch was chosen.
    second = [json.loads((STUDY / f"runs/seed_{seed}/test_metrics.json").read_text()) for seed in (1, 2, 3)]
    assert [one["pairs"] for one in second] == [25] * 3
    assert setting["f1"]["mean"] == pytest.approx(numpy.mean([one["f1"] for one in second]))
    mean = numpy.mean(
        [
            [float(row["probability_equivalent"]) for row in read_predictions(path)]
            for path in sorted(STUDY.glob("runs/*/test_predictions.csv"))
        ],
        axis=0,
    )
    truth = [row["label"] == "equivalent" for row in read_predictions(STUDY / "runs/seed_1/test_predictions.csv")]
    assert setting["ensemble"]["f1"] == pytest.approx(f1_score(truth, mean > 0.5))
    # Somebody scores other pairs with one of the runs: it is scored again, and counts as before.
    capsys.readouterr()
    main(["test", "--ckpt_path", str(STUDY / "runs/seed_1"), "--data.test_file=train.csv"])
    assert not units(STUDY, settings([]), 3, 3)[0].scores
    main(["test", "--ckpt_path", str(STUDY / "runs/seed_1")])
    assert units(STUDY, settings([]), 3, 3)[0].scores["f1"] == second[0]["f1"]
    message = fails(capsys, ["study", *arguments, "--seeds=3"])
    assert "is a run with --data.fold 1/3; give this study another --name" in message


@pytest.mark.slow
def test_one_model_of_several_is_a_run_like_any_other(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*arguments, "--model.learning_rate=3e-3", "--trainer.max_epochs=12", "--early_stopping.patience=12"]
    planned = units(STUDY, settings([]), 3, 3)
    rows = [(f"{first} {row}", f"{second} {row}", label) for row, (first, second, label) in enumerate(make_rows(60))]
    write_csv(project / "train.csv", rows)
    make_runs(arguments, planned)
    capsys.readouterr()
    main(["study", *arguments, "--folds=3", "--soup", "--distill"])
    assert "one model that learned what 3 runs say" in capsys.readouterr().out
    found = json.loads((STUDY / "study.json").read_text())
    soup, distilled = found["models"]
    for one in (soup, distilled):
        main(["predict", "--ckpt_path", one["folder"], "--data.predict_file=validation.csv", "--output=out.csv"])
        main(["test", "--ckpt_path", one["folder"]])
        metrics = json.loads((Path(one["folder"]) / "test_metrics.json").read_text())
        predictions = read_predictions(Path("out.csv"))
        truth = [row["label"] == "1" for row in read_predictions(project / "validation.csv")]
        predicted = [row["prediction"] == "equivalent" for row in predictions]
        assert metrics["f1"] == pytest.approx(one["f1"]) == pytest.approx(f1_score(truth, predicted))
    # The soup: the mean of the runs that it names, and no worse than the best of them.
    chosen = json.loads((STUDY / "soup/metrics.json").read_text())["seeds"]
    weights = [load(STUDY / f"runs/seed_{seed}/checkpoints/best.ckpt")["state_dict"] for seed in chosen]
    for name, tensor in load(STUDY / "soup/checkpoints/best.ckpt")["state_dict"].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, sum(one[name] for one in weights) / len(weights))
    # It was trained on what all of its runs were trained on, and left out no fold.
    merged = load(STUDY / "soup/checkpoints/best.ckpt")
    hashes = [load(STUDY / f"runs/seed_{n}/checkpoints/best.ckpt")["MRPCDataModule"]["trained_on"] for n in chosen]
    known = set(merged["MRPCDataModule"]["trained_on"]["pair_hashes"].tolist())
    assert known == {number for one in hashes for number in one["pair_hashes"].tolist()}
    assert merged["datamodule_hyper_parameters"]["fold"] is None and merged["seeds"] == chosen
    single = [json.loads((STUDY / f"runs/seed_{n}/test_metrics.json").read_text())["f1"] for n in (1, 2, 3)]
    assert soup["f1"] >= max(single) - 1e-9
    # The distilled model learned what the run that had not seen a pair says of it, and as much of the label.
    [path] = STUDY.glob("distilled-*.train.jsonl")
    learned = [json.loads(line) for line in path.read_text().splitlines()]
    left_out = {
        (row["sentence1"], row["sentence2"]): float(row["probability_equivalent"])
        for seed in (1, 2, 3)
        for row in read_predictions(STUDY / f"runs/seed_{seed}/validation_predictions.csv")
    }
    assert len(learned) == 60
    for row in learned:
        assert row["soft"] == pytest.approx(
            0.5 * left_out[row["sentence1"], row["sentence2"]] + 0.5 * (row["label"] == "equivalent")
        )


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
