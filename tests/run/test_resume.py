"""A run that was stopped or killed, and resumed, ends as one that was not: compared at tolerance 0."""

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LAST, RUN, Forked, curve, differences, fails, load, make_rows, rewrite, stop, train, write_csv

from mrpc_lightning import ParaphraseClassifier, main
from mrpc_lightning.run.state import moved

SLOW = pytest.mark.slow
# Every key of a recipe; 16 steps an epoch.
RECIPE = [
    "--model.layer_decay=0.5",
    "--model.reinit_layers=1",
    "--model.label_smoothing=0.1",
    "--model.class_weights=[2.0, 1.0]",
    "--model.schedule=cosine",
    "--data.both_orders=true",
    "--data.soft_label_column=label_of_others",
]
PARTIAL = LAST.with_name("last.ckpt.tmp")


@pytest.fixture(scope="module")
def whole_run(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run of 24 steps that nothing interrupted."""
    return train(tmp_path_factory.mktemp("whole"), encoder, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1")


@pytest.fixture
def finished(whole_run: Path, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run, kept elsewhere, with paths as though it had been made in this test's project."""
    kept = tmp_path_factory.mktemp("finished") / RUN
    shutil.copytree(whole_run / RUN, kept)
    callbacks = moved(load(kept / "checkpoints/last.ckpt")["callbacks"], str(whole_run), str(project))
    rewrite(kept / "checkpoints/last.ckpt", lambda content: content.update(callbacks=callbacks))
    return kept


# 8 steps an epoch: in the midst of an epoch, before and at its last batch, at the start of the next, in the last one.
@pytest.mark.parametrize("step", [3, 8, *(pytest.param(step, marks=SLOW) for step in (1, 7, 9, 16, 23))])
def test_a_run_that_was_stopped_and_resumed_ends_as_one_that_was_not(
    step: int, finished: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", *arguments, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1"]
    stop(words, monkeypatch, step)
    assert f"resume with:\n  python -m mrpc_lightning fit --ckpt_path {RUN}" in capsys.readouterr().err
    assert load(LAST)["global_step"] == step
    time.sleep(1.1)  # TensorBoard orders event files by the second they were begun in
    main(["fit", "--ckpt_path", str(RUN)])
    assert differences(load(finished / "checkpoints/last.ckpt"), load(LAST)) == []
    assert differences(load(finished / "checkpoints/best.ckpt"), load(RUN / "checkpoints/best.ckpt")) == []
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (finished, RUN))
    assert differences(first, second) == []
    assert second["starts"] == 2
    assert curve(finished) == curve(RUN)


@pytest.mark.parametrize(
    ("options", "step"),
    [
        pytest.param(["--trainer.accumulate_grad_batches=4"], 2, marks=SLOW),
        pytest.param(["--trainer.accumulate_grad_batches=4"], 3, marks=SLOW),
        pytest.param(["--trainer.max_steps=13", "--trainer.max_epochs=-1"], 11, marks=SLOW),
        pytest.param(["--trainer.val_check_interval=0.5"], 4, marks=SLOW),
        (["--trainer.val_check_interval=3"], 7),
        (["--model_checkpoint.save_top_k=2", "--trainer.max_epochs=3"], 19),
        (RECIPE, 13),
        pytest.param(["--trainer.check_val_every_n_epoch=2"], 8, marks=SLOW),
        pytest.param(["--trainer.limit_train_batches=5"], 7, marks=SLOW),
        pytest.param(["--data.bucketing=false"], 5, marks=SLOW),
        pytest.param(["--seed_everything=true"], 5, marks=SLOW),
    ],
)
def test_other_ways_to_train_go_on_as_well(
    options: list[str], step: int, project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", *arguments, "--trainer.log_every_n_steps=1", *options]
    rows: list[Any] = [(*row, number / 60) for number, row in enumerate(make_rows(60))]
    write_csv(project / "train.csv", rows, ("sentence1", "sentence2", "label", "label_of_others"))
    main(words)
    shutil.move("tb_logs", "finished")
    stop(words, monkeypatch, step)
    time.sleep(1.1)
    main(["fit", "--ckpt_path=last"])
    whole = Path("finished/mrpc/version_0")
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert differences(load(whole / name), load(RUN / name)) == []
    assert curve(whole) == curve(RUN)


def test_points_that_a_run_made_after_its_last_checkpoint_come_once(
    finished: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ParaphraseClassifier.training_step

    def training_step(self: ParaphraseClassifier, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.global_step == 13:
            raise RuntimeError("power cut")
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ParaphraseClassifier, "training_step", training_step)
        with pytest.raises(RuntimeError, match="power cut"):
            main(["fit", *arguments, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", "--checkpoint_every=5"])
    assert load(LAST)["global_step"] == 10
    time.sleep(1.1)
    main(["fit", "--ckpt_path=last"])
    assert curve(finished) == curve(RUN)


def test_a_run_that_was_stopped_before_it_was_scored_is_scored_when_it_is_resumed(
    finished: Path, arguments: list[str]
) -> None:
    shutil.copytree(finished, RUN)
    (RUN / "metrics.json").unlink()
    scored = main(["fit", "--ckpt_path=last"])
    assert scored.trainer.global_step == 24
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (finished, RUN))
    assert differences(first, second) == []


def test_a_run_that_max_steps_ended_in_mid_epoch_goes_on_with_the_rest_of_its_pairs(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", *arguments, "--trainer.max_epochs=-1", "--data.global_batch_size=8"]
    seen: list[tuple[int, ...]] = []
    original = ParaphraseClassifier.training_step

    def training_step(self: ParaphraseClassifier, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        seen.extend(tuple(row) for row in batch["input_ids"].tolist())
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ParaphraseClassifier, "training_step", training_step)
    main([*words, "--trainer.max_steps=5"])
    main(["fit", "--ckpt_path=last", "--trainer.max_steps=8"])
    whole = [*seen]
    seen.clear()
    shutil.rmtree("tb_logs")
    main([*words, "--trainer.max_steps=8"])
    assert whole == seen and len(seen) == 60


def test_a_run_that_stopped_early_goes_on_with_more_patience(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments, "--trainer.max_epochs=9", "--model.learning_rate=0"])
    message = fails(capsys, ["fit", "--ckpt_path=last"])
    assert "stopped early after 3 epochs; raise --early_stopping.patience from 2 to train on" in message
    resumed = main(["fit", "--ckpt_path=last", "--early_stopping.patience=4"])
    # The first epoch was the best, and the two that were waited for count.
    assert resumed.trainer.current_epoch == 5


def test_validations_in_mid_epoch_count_are_kept_and_are_gone_on_from(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 8 steps an epoch, so validations after 4, 8, 12, ... With a rate of 0 the first of them is the best.
    words = ["fit", *arguments, "--trainer.max_epochs=3", "--trainer.val_check_interval=0.5"]
    words += ["--trainer.log_every_n_steps=1", "--model.learning_rate=0", "--early_stopping.patience=4"]
    stop(words, monkeypatch, 10)
    main(["fit", "--ckpt_path=last"])
    found = json.loads((RUN / "metrics.json").read_text())
    assert load(RUN / "checkpoints/best.ckpt")["global_step"] == found["optimizer_step"] == 4 and found["epoch"] == 1
    assert load(LAST)["global_step"] == 5 * 4, "the first validation and the four that were waited for"
    assert [step for step, _ in curve(RUN)["val_f1"]] == [3, 7, 11, 15, 19]
    assert "a larger early_stopping.patience" in found["diagnosis"]
    # It stopped in the middle of the third epoch, whose rest comes next.
    time.sleep(1.1)
    longer = ["--early_stopping.patience=5", "--trainer.max_epochs=4"]
    main(["fit", "--ckpt_path=last", *longer])
    main([*words, *longer])
    resumed, whole = (curve(RUN.with_name(f"version_{n}")) for n in (0, 1))
    assert len(whole["train_loss_step"]) == 6 * 4
    assert {name: resumed[name] for name in ("train_loss_step", "val_f1", "val_loss")} == {
        name: whole[name] for name in ("train_loss_step", "val_f1", "val_loss")
    }


def test_a_run_that_goes_on_with_other_versions_or_threads_says_so(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = ["fit", "--ckpt_path=last"]
    main([*resume, "--trainer.max_epochs=2"])
    assert "changed   trainer.max_epochs" in (printed := capsys.readouterr().out) and "device" not in printed
    content = load(LAST)
    made_with = content["made_with"]
    content["made_with"] = {**made_with, "device": "an abacus, 7 threads", "torch": "1.0"}
    torch.save(content, LAST)
    main([*resume, "--trainer.max_epochs=3"])
    versions, computer = (
        f"torch 1.0 -> {made_with['torch']}",
        f"an abacus, 7 threads -> {made_with['device']}",
    )
    assert f"changed   {versions}, device {computer}: metrics may differ" in capsys.readouterr().out


def test_the_best_validation_is_kept_though_it_came_in_mid_epoch(project: Path, arguments: list[str]) -> None:
    words = ["fit", *arguments, "--trainer.max_epochs=3", "--trainer.val_check_interval=3"]
    main([*words, "--early_stopping.patience=9"])
    scores = dict(curve(RUN)["val_f1"])
    best = max(scores, key=lambda step: scores[step])  # the first, of several
    found = json.loads((RUN / "metrics.json").read_text())
    assert len(scores) == 6 and best + 1 == found["optimizer_step"]
    assert found["f1"] == pytest.approx(scores[best]) and found["epoch"] == best // 8 + 1
    assert load(RUN / "checkpoints/best.ckpt")["global_step"] == best + 1


@pytest.mark.parametrize("forgotten", ["random", *(pytest.param(part, marks=SLOW) for part in ("metrics", "position"))])
def test_the_comparison_fails_where_a_part_of_the_state_is_forgotten(
    forgotten: str, finished: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(["fit", *arguments, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1"], monkeypatch, 3)
    content = load(LAST)
    if forgotten == "position":
        content["MRPCDataModule"]["position"]["steps_done"] = 0
    elif forgotten == "metrics":
        for metric in content["processes"][0]["metrics"].values():
            for value in metric.values():
                value.zero_()
    else:
        torch.manual_seed(0)
        content["processes"][0]["random"]["torch"] = torch.get_rng_state()
    torch.save(content, LAST)
    main(["fit", "--ckpt_path", str(RUN)])
    changed = differences(load(finished / "checkpoints/last.ckpt"), load(LAST))
    changed += [".curve"] * (curve(finished)["train_loss"] != curve(RUN)["train_loss"])
    assert changed


def written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_after_writes(process: Forked, writes: int, delay: float | None) -> bool:
    """Kill a process so many seconds after it has written last.ckpt so many times; return whether it was still running.

    Without a delay it is killed as soon as the next write has begun.
    """
    newest = written(LAST)
    while writes and process.poll() is None:
        if written(LAST) != newest:
            newest = written(LAST)
            writes -= 1
        time.sleep(0.0005)
    if delay is not None:
        time.sleep(delay)
    while delay is None and process.poll() is None and not PARTIAL.exists():
        time.sleep(0.0002)
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(("wanted", "workers"), [(20, 0), (8, 2)])
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(
    wanted: int, workers: int, project: Path, arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    words = [
        "fit",
        *arguments,
        "--trainer.max_epochs=30",  # more than all killed processes together get through, on any machine
        "--early_stopping.patience=30",
        "--trainer.log_every_n_steps=1",
        "--checkpoint_every=1",
        f"--data.num_workers={workers}",
    ]
    process = Forked(words)
    assert process.wait() == 0, process.communicate()
    kept = tmp_path_factory.mktemp("finished")
    shutil.move("tb_logs", kept)

    # Another seed and learning rate in the file that resuming is given: they must not matter.
    Path("other.yaml").write_text("seed_everything: 7\nmodel:\n  learning_rate: 0.5\n")
    moments = random.Random(workers)
    kills = inside_writing = 0
    command = words
    while kills < wanted or not inside_writing:
        process = Forked(command)
        delay = moments.uniform(0, 0.03) if kills % 4 else None
        assert kill_after_writes(process, moments.randint(1, 5), delay), process.communicate()
        kills += 1
        inside_writing += PARTIAL.exists()
        PARTIAL.unlink(missing_ok=True)
        assert load(LAST)["global_step"] > 0, "a checkpoint that was half written took the place of a whole one"
        command = ["fit", "--config=other.yaml", f"--ckpt_path={RUN}"]
    process = Forked(command)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert load(LAST)["global_step"] == 30 * 8
    for name in ("last", "best"):
        path = f"checkpoints/{name}.ckpt"
        assert differences(load(kept / RUN / path), load(RUN / path)) == []
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (kept / RUN, RUN))
    assert differences(first, second) == []
    assert second["starts"] == kills + 1
    assert curve(kept / RUN) == curve(RUN)
