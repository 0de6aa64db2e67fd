"""What all processes of one command must know before the Trainer brings them together."""

import contextlib
import functools
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # its list of names leaves them out

from mrpc_lightning.errors import InputError, Stopped

# Processes that Lightning starts inherit the environment of the first one.
VARIABLE = "MRPC_LIGHTNING_DECIDED"
SECONDS = 120.0  # that a process waits for the first one to decide
PREPARING = 1800.0  # PyTorch's own limit for a group of processes
READING = 86400.0  # that it waits for the others' pairs: a hundred million take an hour to read and to tokenize
_decisions, _outcomes = itertools.count(), itertools.count()


def from_first_process(decide: Callable[[], str]) -> str:
    """Let the first process of a command decide something, and return it on every process.

    Args:
        decide: Returns the decision. It is called on the first process alone.

    Raises:
        InputError: On every process, if the first one raises it.
    """
    if VARIABLE in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
        return os.environ[VARIABLE]
    if (launched := launcher()) is None:
        os.environ[VARIABLE] = decide()
        return os.environ[VARIABLE]
    store, key = _store(), f"decision/{next(_decisions)}"
    if launched.global_rank() == 0:
        try:
            decision = decide()
        except BaseException as error:
            store.set(key, f"refused {error}")
            raise
        store.set(key, f"decided {decision}")
        return decision
    verdict, _, content = _read(store, key, SECONDS).partition(" ")
    if verdict == "refused":
        raise InputError(content)
    return content


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Let what goes wrong on one process of a command, before they are a group, end all of them with its message.

    Otherwise the others would wait for it, for half an hour.

    Raises:
        InputError: On the processes on which nothing went wrong, if it did on another.
        Stopped: The same, if a signal came to another.
    """
    if (launched := launcher()) is None:
        yield
        return
    failed: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failed = error
    rank, store, key = launched.global_rank(), _store(), f"outcome/{next(_outcomes)}"
    kind = "" if failed is None else "Stopped" if isinstance(failed, Stopped) else type(failed).__name__
    outcome = {"kind": kind, "message": str(failed or ""), "signum": getattr(failed, "signum", 0)}
    try:
        if rank == 0 and failed is not None:  # the others may wait for a decision
            store.set(f"decision/{next(_decisions)}", f"refused {failed}")
        store.set(f"{key}/{rank}", json.dumps(outcome))
        found = [json.loads(_read(store, f"{key}/{one}", READING)) for one in range(launched.world_size())]
        _leave(store, key, launched)
    except (RuntimeError, InputError):  # the store's errors: the first process has gone
        if failed is None:
            raise
        found = []
    if failed is not None and not isinstance(failed, InputError):
        raise failed
    ranks = [number for number, one in enumerate(found) if one["kind"]]
    if failed is None and ranks:
        first = found[ranks[0]]
        if first["kind"] == "Stopped":
            raise Stopped(first["signum"], first["message"])
        what = first["message"] if first["kind"] == InputError.__name__ else f"{first['kind']} {first['message']}"
        raise InputError(what + _where(ranks))
    if failed is not None:
        raise InputError(f"{failed}{_where(ranks)}") from failed


def _where(ranks: list[int]) -> str:
    """Say which processes found a fault, where the first one found none."""
    if not ranks or ranks[0] == 0:
        return ""
    several = "processes" if len(ranks) > 1 else "process"
    return f" (on {several} {', '.join(map(str, ranks))} alone: do all machines see the same files?)"


def meet_again(device: torch.device) -> None:
    """Make a group of the processes that torchrun has started again, before the Trainer does.

    Its store still holds the addresses of those that died, which PyTorch 2.13 would take for the new ones'.

    Args:
        device: What this process computes on.
    """
    attempt, launched = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), launcher()
    if attempt == "0" or launched is None or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        torch.distributed.get_default_backend_for_device(device),
        store=PrefixStore("group", _store()),
        rank=launched.global_rank(),
        world_size=launched.world_size(),
        timeout=timedelta(seconds=PREPARING),
        device_id=device if device.type == "cuda" else None,
    )


def part() -> None:
    """Leave the group of processes, before Python ends.

    PyTorch's threads may hold tensors until they are told to end, and one that lets go of them while Python ends aborts
    a process that has done its work (pytorch/pytorch#190489). Lightning calls this for NCCL alone.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def as_launched(trainer: Any) -> dict[str, int]:
    """Return how many processes torchrun has started, as the Trainer's arguments.

    Lightning would let each of them train alone on a CPU. Of SLURM it checks the number itself.

    Args:
        trainer: The Trainer's configuration.

    Raises:
        InputError: If that says otherwise.
    """
    launched = launcher()
    if not isinstance(launched, TorchElasticEnvironment):
        return {}
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    started = {"devices": here, "num_nodes": launched.world_size() // here}
    for name, unset in (("devices", "auto"), ("num_nodes", "1")):
        if str(trainer[name]) not in (unset, str(started[name])):
            what = f"torchrun has started {started[name]}"
            raise InputError(f"trainer.{name} {trainer[name]}: {what}; give that, or leave it out")
    return started


def launcher() -> TorchElasticEnvironment | SLURMEnvironment | None:
    """Return what has started several processes of this command: torchrun or SLURM; else None."""
    kinds: tuple[type[TorchElasticEnvironment] | type[SLURMEnvironment], ...]
    kinds = (TorchElasticEnvironment, SLURMEnvironment)
    launched = next((kind() for kind in kinds if kind.detect()), None)
    return None if launched is None or launched.world_size() == 1 else launched


@functools.cache
def _store() -> Any:
    """Open a store that all processes see, once: where the first process holds it, it does so until it ends."""
    launched = launcher()
    assert launched is not None
    store = TCPStore(
        launched.main_address,
        launched.main_port,
        # torchrun has a store of its own at this address; PyTorch's group shares that of the first process.
        is_master=launched.global_rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        multi_tenant=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=PREPARING),
    )
    return PrefixStore(f"mrpc_lightning/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _read(store: Any, key: str, seconds: float) -> str:
    """Wait for a value; signals are heard meanwhile.

    Raises:
        InputError: If it does not come.
    """
    until = time.monotonic() + seconds
    while not store.check([key]):
        if time.monotonic() > until:
            raise InputError(f"another process of this command has not answered for {seconds:.0f} s ({key})")
        time.sleep(0.05)
    return str(store.get(key).decode())


def _leave(store: Any, key: str, launched: Any) -> None:
    """Let the first process, which may hold the store, end no sooner than the others have read what it holds."""
    store.add(f"{key}/read", 1)
    until = time.monotonic() + SECONDS
    while launched.global_rank() == 0 and time.monotonic() < until:
        if store.add(f"{key}/read", 0) >= launched.world_size():
            return
        time.sleep(0.05)
