"""What all processes of one command must know before the Trainer brings them together."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # its list of names leaves them out

from mrpc_lightning.errors import InputError

# Processes that Lightning starts inherit the environment of the first one.
VARIABLE = "MRPC_LIGHTNING_DECIDED"
SECONDS = 120  # that a process waits for the first one to decide
PREPARING = 1800  # that it waits for the others' pairs: PyTorch's own limit for a group of processes
_calls = itertools.count()


def from_first_process(decide: Callable[[], str]) -> str:
    """Let the first process of a command decide something, and return it on every process.

    Args:
        decide: Returns the decision. It is called on the first process alone.

    Raises:
        InputError: On every process, if the first one raises it.
    """
    if VARIABLE in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
        return os.environ[VARIABLE]
    if (launched := _launched()) is None:
        os.environ[VARIABLE] = decide()
        return os.environ[VARIABLE]
    with _store(launched, SECONDS) as (store, key):
        if launched.global_rank() == 0:
            try:
                store.set(key, f"decided {decide()}")
            except BaseException as error:
                store.set(key, f"refused {error}")
                raise
        verdict, _, content = store.get(key).decode().partition(" ")
    if verdict == "refused":
        raise InputError(content)
    return content


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Let what goes wrong on one process of a command, before they are a group, end all of them with its message.

    Otherwise the others would wait for it, for half an hour.

    Raises:
        InputError: On the processes on which nothing went wrong, if it did on another.
    """
    if (launched := _launched()) is None:
        yield
        return
    rank, failed = launched.global_rank(), None
    try:
        yield
    except BaseException as error:
        failed = error
    with _store(launched, PREPARING) as (store, key):
        store.set(f"{key}/{rank}", "" if failed is None else str(failed) or type(failed).__name__)
        if rank == 0:
            messages = [store.get(f"{key}/{other}").decode() for other in range(launched.world_size())]
            first = next((other for other, message in enumerate(messages) if message), 0)
            where = f" (on process {first} alone: do all machines see the same files?)" if first else ""
            store.set(key, messages[first] + where * bool(messages[first]))
        found = store.get(key).decode()
    if isinstance(failed, BaseException) and not isinstance(failed, InputError):
        raise failed
    if found:
        raise InputError(found) from failed


def meet_again(device: torch.device) -> None:
    """Make a group of the processes that torchrun has started again, before the Trainer does.

    Its store still holds the addresses of those that died, which PyTorch 2.13 would take for the new ones'.

    Args:
        device: What this process computes on.
    """
    attempt, launched = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), _launched()
    if attempt != "0" and isinstance(launched, TorchElasticEnvironment):
        store = TCPStore(launched.main_address, launched.main_port, is_master=False)
        torch.distributed.init_process_group(
            torch.distributed.get_default_backend_for_device(device),
            store=PrefixStore(f"mrpc_lightning/group/{attempt}", store),
            rank=launched.global_rank(),
            world_size=launched.world_size(),
        )


def _launched() -> TorchElasticEnvironment | SLURMEnvironment | None:
    """Return what has started several processes of this command: torchrun or SLURM; else None."""
    kinds: tuple[type[TorchElasticEnvironment] | type[SLURMEnvironment], ...]
    kinds = (TorchElasticEnvironment, SLURMEnvironment)
    launched = next((kind() for kind in kinds if kind.detect()), None)
    return None if launched is None or launched.world_size() == 1 else launched


@contextlib.contextmanager
def _store(launched: Any, seconds: float) -> Iterator[tuple[TCPStore, str]]:
    """Open a store that all processes see, with a key of this call's own, until all of them have read what it holds."""
    is_first = launched.global_rank() == 0
    store = TCPStore(
        launched.main_address,
        launched.main_port,
        # torchrun has a store of its own at this address.
        is_master=is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        multi_tenant=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=seconds),
    )
    key = f"mrpc_lightning/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_calls)}"
    try:
        yield store, key
    finally:
        store.add(f"{key}/read", 1)
        if is_first:  # the store ends with this function
            for _ in range(10 * SECONDS):
                if store.add(f"{key}/read", 0) >= launched.world_size():
                    break
                time.sleep(0.1)
