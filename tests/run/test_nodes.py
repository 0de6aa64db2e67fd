"""Two networks on one machine, as two machines would be: it takes root, and a kernel that gives them."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import RUN, curve, load

from mrpc_lightning import main

NAMES = (f"mrpc-{os.getpid()}-first", f"mrpc-{os.getpid()}-second")
ADDRESSES = ("10.77.31.1", "10.77.31.2")
CONFIG = Path(__file__).resolve().parents[2] / "configs/demo.yaml"
WORDS = [
    *("fit", f"--config={CONFIG}", "--trainer.accelerator=cpu", "--trainer.logger.init_args.name=mrpc"),
    *("--model.hidden_dropout=0", "--model.attention_dropout=0", "--trainer.log_every_n_steps=1"),
    *("--trainer.max_steps=60", "--trainer.val_check_interval=30", "--trainer.enable_progress_bar=false"),
]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[list[list[str]]]:
    """What starts a command on each of two machines, which have a network between them."""
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", "mrpc0", "netns", NAMES[0], "type", "veth", "peer", "name", "mrpc0", "netns", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "mrpc0")
            for link in ("lo", "mrpc0"):
                ip("-n", name, "link", "set", link, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        remove()
        pytest.skip(f"no networks can be made here: {error}")
    yield [["ip", "netns", "exec", name] for name in NAMES]
    remove()


def remove() -> None:
    for name in NAMES:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            ip("netns", "delete", name)


@pytest.mark.slow
@pytest.mark.parametrize("disks", ["a shared disk", "a disk each"])
def test_two_machines_train_as_one_process_does(
    machines: list[list[str]], disks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(WORDS)
    shutil.move("tb_logs", "alone")
    folders = [tmp_path / "first", tmp_path / ("first" if disks == "a shared disk" else "second")]
    started = []
    for number, (machine, folder) in enumerate(zip(machines, folders, strict=True)):
        folder.mkdir(exist_ok=True)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={number}"]
        address = ["--nproc-per-node=1", f"--master-addr={ADDRESSES[0]}", "--master-port=29531"]
        started.append(
            subprocess.Popen(
                [*machine, *launcher, *address, "-m", "mrpc_lightning", *WORDS, "--trainer.num_nodes=2"],
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "mrpc0"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    # Machines that wait for each other forever are the likeliest fault here; they must not hang the tests.
    try:
        for process in started:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()
    alone, both = curve(Path("alone/mrpc/version_0")), curve(folders[0] / RUN)
    for name in ("train_loss_step", "train_loss", "val_loss", "val_accuracy", "val_f1"):
        assert [step for step, _ in both[name]] == [step for step, _ in alone[name]]
        assert [value for _, value in both[name]] == pytest.approx([value for _, value in alone[name]], abs=1e-5)
    assert load(folders[0] / RUN / "checkpoints/last.ckpt")["world_size"] == 2
    assert [path.name for path in folders[0].glob("tb_logs/mrpc/*")] == ["version_0"]
    if disks == "a disk each":
        assert not [*folders[1].rglob("*.ckpt")], "the first machine alone writes"
