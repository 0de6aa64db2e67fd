"""What a run was made with: versions, commit, device."""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from mrpc_lightning import __version__

LIBRARIES = ("torch", "lightning", "transformers", "tokenizers", "datasets", "torchmetrics", "numpy")
CHECKOUT = Path(__file__).resolve().parents[2]


def versions() -> dict[str, str]:
    """Return the versions of everything that can change a metric."""
    own = {"mrpc_lightning": __version__, "python": platform.python_version()}
    return own | {library: version(library) for library in LIBRARIES}


def git_commit() -> str | None:
    """Return the commit of this package's own checkout, with "+" if files differ from it; None if it has none."""
    if not (CHECKOUT / ".git").exists():
        return None
    # Nothing that a repository's configuration names is run.
    git = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(CHECKOUT)]
    found = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run([*git, *words], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        found.append(done.stdout.strip())
    return found[0] + "+" * bool(found[1])


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


def changes(made_with: Mapping[str, Any], trainer: Trainer) -> list[str]:
    """Return a line on the versions and the device that a run is resumed with and was not begun with, if there are any.

    Args:
        made_with: What the run's checkpoint says of them.
        trainer: The Trainer that goes on.
    """
    now = {**versions(), "device": device(trainer)}
    names = [name for name, value in now.items() if made_with.get(name, value) != value]
    what = ", ".join(f"{name} {made_with[name]} -> {now[name]}" for name in names)
    return [f"changed   {what}: metrics may differ from those of a run that was not stopped"] if what else []
