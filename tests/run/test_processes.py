"""Two processes on one machine, as several GPUs would be."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ENTRY, LAST, RUN, Forked, curve, differences, load, make_rows, read_predictions, write_csv
from transformers import AutoModelForSequenceClassification

from mrpc_lightning import ParaphraseClassifier, main

# The last process alone hears a signal, after a step.
ONE_IS_STOPPED = """
import os
import signal

from mrpc_lightning import ParaphraseClassifier
from mrpc_lightning.__main__ import entry


def on_train_batch_end(self, *_):
    first = (self.trainer.fit_loop.total_batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
    if self.trainer.global_rank == self.trainer.world_size - 1 and self.trainer.global_step == STEP and first:
        os.kill(os.getpid(), signal.SIGTERM)


ParaphraseClassifier.on_train_batch_end = on_train_batch_end
entry()
"""


# Says whether there is a group, and which threads, when a command has ended and when Python is about to.
THREADS = """
import atexit
import sys
from pathlib import Path

import torch

from mrpc_lightning.__main__ import entry


def say(when):
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    sys.stderr.write(f"{when}: {torch.distributed.is_initialized()} {names}\\n")


atexit.register(say, "left")
try:
    entry()
finally:
    say("working")
"""


# Says how each step of a command that several machines run together ends, where one process fails in one of them.
STEPS = """
import os
import sys

from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.run.processes import failing_together, from_first_process


def step(name):
    if sys.argv[-2:] == [os.environ["RANK"], name]:
        raise Stopped(15, "stopped") if name == "stopped" else KeyError("bug") if name == "bug" else InputError(name)


try:
    with failing_together():
        step("words")
        decided = from_first_process(lambda: f"run {step('folder') or 3}")
        step("checkpoint")
    for name in ("pairs", "stopped", "bug"):
        with failing_together():
            step(name)
    print(decided)
except BaseException as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("failing", ["words", "folder", "checkpoint", "pairs", "stopped", "bug", ""])
def test_what_goes_wrong_on_one_process_ends_all_of_them(rank: int, failing: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "TORCHELASTIC_RUN_ID": "one",
        "WORLD_SIZE": "3",
        "LOCAL_WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
    }
    started = [
        Forked([str(rank), failing], STEPS, RANK=str(one), GROUP_RANK=str(one), MASTER_PORT=port, **shared)
        for one in range(3)
    ]
    # A process that waits for another forever is the likeliest fault here; it must not hang the tests.
    printed = [process.communicate(timeout=60)[0].strip() for process in started]
    if not failing or (failing == "folder" and rank):  # the first process alone makes a folder
        assert printed == ["run 3"] * 3
        return
    alone = f" (on process {rank} alone: do all machines see the same files?)" if rank else ""
    others = {"stopped": "Stopped stopped", "bug": f"InputError KeyError 'bug'{alone}"}
    own = {**others, "bug": "KeyError 'bug'"}.get(failing, f"InputError {failing}{alone}")
    expected = [own if one == rank else others.get(failing, f"InputError {failing}{alone}") for one in range(3)]
    assert printed == expected


def run(words: list[str], devices: int, code: str = "", exit_code: int = 0) -> str:
    if devices == 1:
        alone = Forked([*words, "--trainer.devices=1"], code or ENTRY)
        printed, errors = alone.communicate(timeout=300)
        assert alone.returncode == exit_code, errors
        return printed
    Path("code.py").write_text(code)
    program = ["code.py"] if code else ["-m", "mrpc_lightning"]
    command = [sys.executable, *program, *words, f"--trainer.devices={devices}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # A process that waits for another forever is the likeliest fault here; it must not hang the tests.
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == exit_code, finished.stderr
    return finished.stdout


SAYS_WHAT_DDP_DOES = """
from mrpc_lightning import ParaphraseClassifier
from mrpc_lightning.__main__ import entry


def on_train_end(self):
    wrapped = self.trainer.model
    sends = getattr(wrapped, "forward_sync_buffers", None) or getattr(wrapped, "broadcast_buffers", False)
    print(f"sends buffers {sends}, holds gradients once {wrapped.gradient_as_bucket_view}")


ParaphraseClassifier.on_train_end = on_train_end
entry()
"""


# Reads 8 pairs at a time.
SMALL_CHUNKS = """
import os
import signal

from mrpc_lightning.__main__ import entry
from mrpc_lightning.deploy import parts, predict


def write_part(path, rows, found):
    parts.write_part(path, rows, found)
    if path.name.startswith("000001"):
        pass
        # killed here


predict.CHUNK, predict.write_part = 8, write_part
entry()
"""


@pytest.mark.slow
def test_two_processes_agree_with_one_on_every_prediction(project: Path, arguments: list[str]) -> None:
    printed = run(["fit", *arguments], 2, SAYS_WHAT_DDP_DOES)
    assert "sends buffers False, holds gradients once True" in printed
    assert "2 epochs, 16 optimizer steps, 2 of them warmup" in printed  # 60 pairs, 8 a step
    assert printed.count("best checkpoint") == 1 and re.search(r"\b(2|two) processes", printed)
    metrics = json.loads(Path("tb_logs/mrpc/version_0/metrics.json").read_text())
    assert metrics["epochs_trained"] == 2 and metrics["pairs"] == 25

    figures = []
    for devices in (2, 1):  # 3 batches: the second process has a pair that comes again
        run(["test", "--trainer.accelerator=cpu", "--data.eval_batch_size=9"], devices)
        figures.append(json.loads(Path("tb_logs/mrpc/version_0/test_metrics.json").read_text()))
    counts = ("pairs", "true_positives", "false_positives", "true_negatives", "false_negatives", "accuracy", "f1")
    assert [figures[0][name] for name in counts] == [figures[1][name] for name in counts]
    assert figures[0]["pairs"] == 25 and figures[0]["loss"] == pytest.approx(figures[1]["loss"], abs=1e-5)

    quick = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    predictions = []
    # Chunks of 8 pairs, the last of 1: a process has only a pair that comes again.
    for devices in (2, 1):
        run(["predict", *quick, "--data.predict_file=validation.csv"], devices, SMALL_CHUNKS)
        predictions.append((RUN / "predictions.csv").read_bytes())
    words = ["predict", *quick, "--data.predict_file=validation.csv", "--output=killed.csv"]
    run(words, 2, SMALL_CHUNKS.replace("# killed here", "os.kill(os.getpid(), signal.SIGKILL)"), -signal.SIGKILL)
    assert "16 of 25 pairs are done" in run(words, 1, SMALL_CHUNKS), (
        "another number of processes goes on with the parts"
    )
    predictions.append(Path("killed.csv").read_bytes())
    assert predictions[0] == predictions[1] == predictions[2] and len(predictions[0].splitlines()) == 26


@pytest.mark.slow
def test_a_run_on_two_processes_goes_on_as_though_it_had_not_stopped(
    project: Path, arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    words = ["fit", *arguments, "--trainer.max_epochs=8", "--early_stopping.patience=8", "--checkpoint_every=1"]
    run(words, devices=2)
    kept = tmp_path_factory.mktemp("finished")
    shutil.move("tb_logs", kept)

    run(words, devices=2, code=ONE_IS_STOPPED.replace("STEP", "17"), exit_code=128 + signal.SIGTERM)
    assert 17 <= load(LAST)["global_step"] <= 24  # the processes ask each other in each validation, every 8 steps
    run(["fit", "--ckpt_path=last"], devices=2)
    assert differences(load(kept / RUN / "checkpoints/last.ckpt"), load(LAST)) == []


@pytest.mark.slow
def test_one_two_and_three_processes_score_and_predict_the_same(trained: Path) -> None:
    for pairs in (407, 408, 1725):  # as many as MRPC has to validate and to test, and one fewer
        write_csv(Path(f"{pairs}.csv"), make_rows(pairs, seed=pairs))
        scored, predicted = [], []
        for devices in (1, 2, 3):
            run(["test", "--trainer.accelerator=cpu", f"--data.test_file={pairs}.csv"], devices)
            scored.append(json.loads((RUN / "test_metrics.json").read_text()))
            run(["predict", "--trainer.accelerator=cpu", f"--data.predict_file={pairs}.csv"], devices)
            predicted.append(read_predictions(RUN / "predictions.csv"))
        for metrics, table in zip(scored[1:], predicted[1:], strict=True):
            assert metrics["pairs"] == len(table) == pairs
            for name in ("accuracy", "f1", "true_positives", "false_positives", "true_negatives", "false_negatives"):
                assert metrics[name] == scored[0][name]
            assert metrics["intervals"]["f1"] == scored[0]["intervals"]["f1"]
            assert metrics["loss"] == pytest.approx(scored[0]["loss"], abs=1e-6)
            assert table == predicted[0], "each batch is the same, and so is the last digit"


# 61 pairs, 12 an optimizer step: the last step of each epoch has one pair. Nothing is random but the order.
EXACT = ["--data.global_batch_size=12", "--model.hidden_dropout=0", "--model.attention_dropout=0"]
EXACT += [
    "--trainer.precision=32-true",
    "--trainer.log_every_n_steps=2",
    "--trainer.max_epochs=3",
    "--early_stopping.patience=3",
]
CURVES = ("train_loss_step", "train_loss", "train_accuracy", "train_f1", "val_loss", "val_f1", "learning_rate")


@pytest.mark.slow
def test_the_same_pairs_a_step_give_the_same_curves_on_any_number_of_processes(
    project: Path, arguments: list[str]
) -> None:
    write_csv(Path("train.csv"), make_rows(61))
    found = []
    for devices, accumulated in ((1, 1), (1, 4), (2, 1), (2, 3), (3, 1), (3, 2)):
        run(["fit", *arguments, *EXACT, f"--trainer.accumulate_grad_batches={accumulated}"], devices)
        found.append(curve(Path(f"tb_logs/mrpc/version_{len(found)}")))
    for other in found[1:]:
        for name in CURVES:
            steps, values = zip(*found[0][name], strict=True)
            assert [step for step, _ in other[name]] == [*steps]
            assert [value for _, value in other[name]] == pytest.approx([*values], abs=1e-5)
    assert len(found[0]["train_loss_step"]) == 9


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(project: Path, arguments: list[str]) -> None:
    write_csv(Path("train.csv"), make_rows(61))
    run(["fit", *arguments, *EXACT], 1)
    words, printed = ["fit", *arguments, *EXACT], ""
    for devices, accumulated, step in ((1, 1, 4), (2, 1, 9), (3, 2, 14), (1, 4, 0)):  # in the middle of an epoch
        stopped = {"code": ONE_IS_STOPPED.replace("STEP", str(step)), "exit_code": 128 + signal.SIGTERM} if step else {}
        printed = run([*words, f"--trainer.accumulate_grad_batches={accumulated}"], devices, **stopped)
        assert words[1] != "--ckpt_path=tb_logs/mrpc/version_1" or f"to {devices} processes: optimizer s" in printed
        words = ["fit", "--ckpt_path=tb_logs/mrpc/version_1", "--checkpoint_every=1"]
    whole, parted = (Path(f"tb_logs/mrpc/version_{number}") for number in (0, 1))
    for name in CURVES:
        expected, values = curve(whole)[name], curve(parted)[name]
        assert [step for step, _ in values] == [step for step, _ in expected]
        assert [value for _, value in values] == pytest.approx([value for _, value in expected], abs=1e-5)
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (whole, parted))
    assert two["f1"] == one["f1"] and two["loss"] == pytest.approx(one["loss"], abs=1e-5)


@pytest.mark.slow
def test_a_sharded_model_trains_as_a_whole_one_and_its_checkpoints_are_the_same(
    project: Path, arguments: list[str]
) -> None:
    write_csv(Path("train.csv"), make_rows(61))
    words = ["fit", *arguments, *EXACT, "--model.layer_decay=0.9", "--trainer.gradient_clip_val=0.1"]
    run([*words, "--trainer.strategy=ddp"], 2)
    run([*words, "--trainer.strategy=fsdp"], 2)
    resumed = ["fit", "--ckpt_path=tb_logs/mrpc/version_2", "--checkpoint_every=1"]
    for given, strategy, devices, step in ((words, "fsdp", 2, 4), (resumed, "auto", 1, 9), (resumed, "fsdp", 2, 0)):
        stopped = {"code": ONE_IS_STOPPED.replace("STEP", str(step)), "exit_code": 128 + signal.SIGTERM} if step else {}
        run([*given, f"--trainer.strategy={strategy}"], devices, **stopped)
    whole, sharded, mixed = (Path(f"tb_logs/mrpc/version_{number}") for number in range(3))
    for name in CURVES:
        expected = curve(whole)[name]
        for other in (sharded, mixed):
            assert [step for step, _ in curve(other)[name]] == [step for step, _ in expected]
            assert [value for _, value in curve(other)[name]] == pytest.approx([v for _, v in expected], abs=1e-5)
    first, second = (load(folder / "checkpoints/last.ckpt") for folder in (whole, sharded))
    assert [*first["state_dict"]] == [*second["state_dict"]]
    for name, weight in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][name], weight, rtol=0, atol=1e-3)  # keys' biases are noise
    one, two = (content["optimizer_states"][0] for content in (first, second))
    assert [group["params"] for group in one["param_groups"]] == [group["params"] for group in two["param_groups"]]
    assert [group["weight_decay"] for group in one["param_groups"]] == [g["weight_decay"] for g in two["param_groups"]]
    for number, state in one["state"].items():
        torch.testing.assert_close(two["state"][number]["exp_avg"], state["exp_avg"], rtol=0, atol=1e-5)

    run(["test", "--ckpt_path=tb_logs/mrpc/version_1", "--trainer.strategy=fsdp", "--trainer.accelerator=cpu"], 2)
    scored, final = (json.loads((sharded / f"{name}metrics.json").read_text()) for name in ("test_", ""))
    assert scored["loss"] == pytest.approx(final["loss"], abs=1e-6)
    main(["export", "--ckpt_path=tb_logs/mrpc/version_1", "--to=model"])
    inputs = {"input_ids": torch.tensor([[2, 7, 3, 8, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    content = load(next((sharded / "checkpoints").glob("best.ckpt")))
    model = ParaphraseClassifier.restore(content).eval()
    exported = AutoModelForSequenceClassification.from_pretrained("model").eval()
    with torch.inference_mode():
        torch.testing.assert_close(model(**inputs), exported(**inputs).logits, rtol=0, atol=1e-6)


# In its first life the second process dies after a step.
ONE_DIES = ONE_IS_STOPPED.replace("STEP", "9 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'").replace(
    "SIGTERM", "SIGKILL"
)


@pytest.mark.slow
def test_a_run_whose_process_dies_goes_on_where_torchrun_starts_it_again(project: Path, arguments: list[str]) -> None:
    words = ["fit", *arguments, "--checkpoint_every=1", "--trainer.devices=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for code in (ONE_DIES, "from mrpc_lightning.__main__ import entry\nentry()\n"):
        Path("code.py").write_text(code)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
        finished = subprocess.run(
            [*launcher, "--max-restarts=2", "code.py", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished.returncode == 0, finished.stderr
    interrupted, whole = (load(Path(f"tb_logs/mrpc/version_{n}/checkpoints/last.ckpt")) for n in (0, 1))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "metrics", "processes"):
        assert differences(whole[part], interrupted[part]) == []
    assert len([*Path("tb_logs/mrpc").iterdir()]) == 2
    assert json.loads((RUN / "metrics.json").read_text())["starts"] == 2


@pytest.mark.slow
def test_processes_that_torchrun_starts_agree_on_the_run(project: Path, arguments: list[str]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "mrpc_lightning"]
    cpu = ["--trainer.accelerator=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for words in (["fit", *arguments], ["fit", "--ckpt_path=last", "--trainer.max_epochs=3"]):
        finished = subprocess.run(
            [*launcher, *words, *cpu], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert finished.returncode == 0, finished.stderr
    assert [path.name for path in Path("tb_logs/mrpc").iterdir()] == ["version_0"]
    metrics = json.loads((RUN / "metrics.json").read_text())
    assert metrics["epochs_trained"] == 3 and metrics["pairs"] == 25 and load(LAST)["world_size"] == 2
    for command, words, message in (
        ("fit", ["--trainer.devices=3"], "--trainer.devices 3: torchrun has started 2; give that, or leave it out"),
        ("describe", [], "describe: is of one process; start it without torchrun or srun"),
    ):
        words = [*launcher, command, *arguments, *cpu, *words]
        refused = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert f"error: {message}" in refused.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="Linux names threads there")
def test_a_process_leaves_its_group_before_python_ends(project: Path, arguments: list[str]) -> None:
    Path("threads.py").write_text(THREADS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "threads.py"]
    finished = subprocess.run(
        [*launcher, "fit", *arguments, "--trainer.accelerator=cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    working, left = (re.findall(rf"^{when}: (.+)", finished.stderr, re.MULTILINE) for when in ("working", "left"))
    assert [line.split()[0] for line in working] == ["True", "True"]
    assert [(line.split()[0], "gloo" in line) for line in left] == [("False", False)] * 2
