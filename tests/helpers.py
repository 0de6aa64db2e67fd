"""What tests share: small corpora, commands that must fail, runs that are stopped, and readers of what a run writes."""

import csv
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import Logger
from packaging.requirements import Requirement
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mrpc_lightning import ParaphraseClassifier, main

Row = tuple[str, str, int]

ENTRY = "from mrpc_lightning.__main__ import entry; entry()"

RUN = Path("tb_logs/mrpc/version_0")

LAST = RUN / "checkpoints/last.ckpt"

# Of the clock, or of the checkout that somebody may be working in; not of the training.
SPEED = {"pairs_per_second", "tokens_per_second", "model_flops_utilization", "peak_memory_gigabytes"}

CLOCK = {"wall_seconds", "training_seconds", "starts", "git_commit", *(f"training_{name}" for name in SPEED)}

HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"

# A quote mark that is never closed, as MRPC has: a reader that believes in quoting swallows the rows after it.
ROWS = [
    '1\t10\t11\tHe said " no\tHe said no .\n',
    "0\t20\t21\tIt rose .\tIt fell .\n",
    '1\t30\t31\t" It rose .\t" It rose , he said .\n',
    "0\t40\t41\tIt fell .\tIt rose .\n",
]


def make_rows(pairs: int, seed: int = 0) -> list[Row]:
    """Pairs that are equivalent just when the second sentence says "rose" as the first does."""
    generator = random.Random(seed)
    rows = []
    for number in range(pairs):
        label = int(number % 3 != 0)
        city = generator.choice(["Oslo", "Vienna", "Lisbon", "Dublin"])
        tail = " " + " ".join(["on Monday"] * generator.randint(1, 12))
        rows.append((f"Rents in {city} rose{tail}", f"In {city} rents {'rose' if label else 'fell'}", label))
    generator.shuffle(rows)
    return rows


def write_csv(path: Path, rows: list[Row], header: tuple[str, ...] = ("sentence1", "sentence2", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def fails(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Run a command that must fail; return its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(words)
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert message.startswith("error: ") and "\n" not in message and "Traceback" not in message
    return message


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Name every place where two checkpoints differ, but for the clock's."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [key for key in (first | second) if key not in CLOCK]
        missing = [f"{path}.{key} is missing in one" for key in keys if key not in first or key not in second]
        shared = [key for key in keys if key in first and key in second]
        return missing + [line for key in shared for line in differences(first[key], second[key], f"{path}.{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return [f"{path} has {len(first)} or {len(second)} items"]
        pairs = enumerate(zip(first, second, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{path}[{i}]")]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
    else:
        same = type(first) is type(second) and first == second
    return [] if same else [path]


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def curve(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run's folder: it reads all event files, and drops what a resumed run purges.

    It reads them in the order of their names, which end with how many this process has begun: the tenth of the tests'
    process would come before the ninth, were both of one second.
    """
    with tempfile.TemporaryDirectory() as ordered:
        for path in folder.glob("events.out.tfevents.*"):
            name, number = path.name.rsplit(".", 1)
            shutil.copy(path, Path(ordered) / f"{name}.{number:0>6}")
        events = EventAccumulator(ordered, size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"] if tag not in SPEED
    }


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, signum: int = signal.SIGTERM) -> None:
    """Send this process a signal at an optimizer step, as a person or a scheduler would."""

    def on_train_batch_end(self: ParaphraseClassifier, *_: Any) -> None:
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(ParaphraseClassifier, "on_train_batch_end", on_train_batch_end)


def stop(words: list[str], monkeypatch: pytest.MonkeyPatch, step: int, signum: int = signal.SIGTERM) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, step, signum)
        with pytest.raises(SystemExit) as stopped:
            main(words)
    assert stopped.value.code == 128 + signum


def read_predictions(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_curves(run: Path) -> dict[str, list[float]]:
    curves: dict[str, list[float]] = {}
    for file in sorted(run.glob("events.out.tfevents*")):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            curves.setdefault(tag, []).extend(event.value for event in events.Scalars(tag))
    return curves


def write_mrpc(folder: Path, microsoft: bool, glue: bool) -> Path:
    if microsoft:
        (folder / "msr_paraphrase_train.txt").write_text(HEADER + "".join(ROWS), encoding="utf-8")
        (folder / "dev_ids.tsv").write_text("20\t21\n30\t31\n")
    if glue:
        (folder / "train.tsv").write_text(HEADER + ROWS[0], encoding="utf-8")
        (folder / "dev.tsv").write_text(HEADER + ROWS[1] + ROWS[2], encoding="utf-8")
        test = 'index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t50\t51\tA " b .\tB .\n1\t60\t61\tC .\tD .\n'
        (folder / "test.tsv").write_text(test)
    return folder


class Elsewhere(Logger):
    """Writes what it is told into one file, wherever the run is.

    Args:
        save_dir: The folder of the file; of all runs.
    """

    name, version = "project", "a1b2c3"

    def __init__(self, save_dir: str = "elsewhere") -> None:
        self._save_dir = save_dir

    @property
    def save_dir(self) -> str:
        return self._save_dir

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        Path(self._save_dir).mkdir(exist_ok=True)
        with (Path(self._save_dir) / "log.jsonl").open("a") as file:
            file.write(json.dumps({**{name: float(value) for name, value in metrics.items()}, "step": step}) + "\n")

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


class Keyed(Elsewhere):
    """A logger that signs in, as those of services do.

    Args:
        api_key: A secret.
        url: An address, with a password in it.
        save_dir: The folder of the file; of all runs.
    """

    def __init__(self, api_key: str, url: str, save_dir: str = "elsewhere") -> None:
        super().__init__(save_dir)
        self.api_key, self.url = api_key, url


def start(words: list[str], program: Sequence[str] = ("-m", "mrpc_lightning")) -> "subprocess.Popen[str]":
    """Run a command in a new interpreter, by `python -m` or by a script."""
    return subprocess.Popen(
        [sys.executable, *program, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Forked:
    """A command in a process of its own, forked from one that has imported everything: that takes seconds each time.

    It answers to the methods of `subprocess.Popen` that tests use.

    Args:
        words: The command line.
        code: What the process runs; without it `python -m mrpc_lightning`. `sys.argv` holds the words.
        environment: Variables of the process. Those that are read on import come too late.
    """

    _context = multiprocessing.get_context("forkserver")

    def __init__(self, words: list[str], code: str = ENTRY, **environment: str) -> None:
        self._context.set_forkserver_preload(["helpers", "mrpc_lightning.cli.app"])
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        values = {**os.environ, **environment}
        self._process = self._context.Process(target=run_forked, args=(words, code, values, os.getcwd(), self._outputs))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")  # of the process that is forked from
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("mrpc_lightning", timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        printed, errors = (path.read_text() for path in self._outputs)
        return printed, errors

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def kill(self) -> None:
        self._process.kill()


def run_forked(words: list[str], code: str, environment: dict[str, str], folder: str, outputs: list[Path]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as everywhere else, for the processes that make batches
    for signum in (signal.SIGINT, signal.SIGHUP):  # which nohup and a shell's background jobs ignore
        signal.signal(signum, signal.SIG_DFL if signum == signal.SIGHUP else signal.default_int_handler)
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = ["mrpc_lightning", *words]
    exec(code, {"__name__": "__main__"})


def wait_for(path: Path, seconds: float = 120) -> None:
    """Wait until there is a file."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path} after {seconds} s"
        time.sleep(0.01)


def rewrite(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change what a checkpoint holds, as a stranger might."""
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


def dependencies() -> dict[str, Requirement]:
    """Return what pyproject.toml says the package needs, by name."""
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    listed = text.partition("\ndependencies = [\n")[2].partition("\n]\n")[0]
    found = [Requirement(line.strip().strip('",')) for line in re.sub(r"#.*", "", listed).splitlines() if line.strip()]
    return {requirement.name: requirement for requirement in found}


TINY = [
    "--model.learning_rate=1e-3",
    "--data.train_file=train.csv",
    "--data.validation_file=validation.csv",
    "--data.max_length=48",
    "--data.global_batch_size=8",
    "--data.eval_batch_size=7",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
]


def train(folder: Path, encoder: str, *words: str) -> Path:
    """Make a project with 60 training and 25 validation pairs, and train in it for one epoch of 8 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_csv(folder / "train.csv", make_rows(60))
        write_csv(folder / "validation.csv", make_rows(25, seed=1))
        main(["fit", *TINY, f"--model.model_name={encoder}", *words])
    return folder


def kept_for_backward(model: torch.nn.Module, pairs: int, tokens: int, **autocast: Any) -> tuple[torch.Tensor, int]:
    """Return a loss, under autocast to bf16, and the bytes that its layers keep for the backward pass."""
    weights, kept = {one.data_ptr() for one in model.parameters()}, dict[int, torch.UntypedStorage]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(5, 100, (pairs, tokens))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, **autocast):
        loss = model(input_ids=ids, attention_mask=mask).logits.sum()
    return loss, sum(storage.nbytes() for storage in kept.values())


def copy_to(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a project that was trained in, and work in the copy."""
    shutil.copytree(run, folder)
    monkeypatch.chdir(folder)
    return folder


def command(words: list[str], timeout: float = 120, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own; should it hang, end it with all the processes that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mrpc_lightning", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, printed, errors)


def from_run(ckpt_path: str = "best") -> Any:
    """Load a trained model in code, by the public class that there is for it."""
    import mrpc_lightning

    loader: Any = getattr(mrpc_lightning, "Predictor", ParaphraseClassifier)
    return loader.from_run(ckpt_path)
