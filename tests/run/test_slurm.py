"""The script for SLURM, under a stand-in for it that starts two processes with the variables that SLURM sets."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import LAST, RUN, load, wait_for

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/slurm.sbatch"
# Starts the command that follows its own flags, once for each task, and waits for all; SLURM would end the others.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
count = int(os.environ["SLURM_NTASKS"])
places = [{{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}} for n in range(count)]
tasks = [subprocess.Popen(words, env=os.environ | place) for place in places]
for signum in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(signum, lambda signum, _: [task.send_signal(signum) for task in tasks])
sys.exit(max(task.wait() % 256 for task in tasks))
"""


@pytest.fixture
def job(project: Path) -> dict[str, str]:
    """The environment of a SLURM job of two tasks on this machine."""
    commands = {"srun": SRUN, "scontrol": '#!/bin/sh\necho "$@" >> requeued\n'}
    commands["python"] = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    (project / "bin").mkdir()
    for name, text in commands.items():
        (project / "bin" / name).write_text(text)
        (project / "bin" / name).chmod(0o755)
    slurm = {"JOB_ID": "123", "JOB_NAME": "mrpc", "NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1", "NODEID": "0"}
    slurm |= {"CPUS_PER_TASK": "1", "NODELIST": "127.0.0.1"}
    variables = {f"SLURM_{name}": value for name, value in slurm.items()}
    return {**os.environ, "PATH": f"{project / 'bin'}:{os.environ['PATH']}", **variables}


@pytest.mark.slow
def test_a_job_that_is_preempted_is_requeued_and_resumes_by_itself(arguments: list[str], job: dict[str, str]) -> None:
    words = ["bash", str(SCRIPT), *arguments, "--trainer.max_epochs=30", "--early_stopping.patience=30"]
    started = subprocess.Popen(words, env=job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(LAST)
    started.send_signal(signal.SIGUSR1)
    _, errors = started.communicate(timeout=120)
    assert started.returncode == 128 + signal.SIGUSR1, errors
    assert "SLURM job 123 is in the queue again and will resume by itself" in errors
    assert Path("requeued").read_text() == "requeue 123\n", "one of the processes asks"
    step = load(LAST)["global_step"]
    assert 0 < step < 240
    again = subprocess.run(
        words, env={**job, "SLURM_RESTART_COUNT": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert again.returncode == 0, again.stderr
    assert f"optimizer step {step:,}; " in again.stdout
    assert load(LAST)["global_step"] == 240 and load(LAST)["world_size"] == 2
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
