"""What a run was made with: versions, commit, device."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch
from lightning.pytorch import Trainer

from mrpc_lightning import __version__

LIBRARIES = ("torch", "lightning", "transformers", "tokenizers", "datasets", "torchmetrics", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of everything that can change a figure."""
    found = {"mrpc_lightning": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return found


def git_commit() -> str | None:
    """Return the commit that the current folder's repository is at, with "+" if files differ from it."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + "+" * bool(status.stdout.strip())


def device(trainer: Trainer) -> str:
    """Return what a Trainer computes on, as a person names it."""
    root = trainer.strategy.root_device
    if root.type == "cuda":
        name = torch.cuda.get_device_name(root)
    elif root.type == "cpu":
        name = f"{processor()}, {torch.get_num_threads()} threads"
    else:
        name = root.type
    return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name


def processor() -> str:
    """Return the processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def describe(trainer: Trainer) -> dict[str, str | None]:
    """Return versions, commit, device and precision, for files that programs read."""
    return {
        **versions(),
        "git_commit": git_commit(),
        "device": device(trainer),
        "trainer_precision": str(trainer.precision),
    }
