"""What all processes of one command must know before the Trainer brings them together."""

import itertools
import os
import time
from collections.abc import Callable
from datetime import timedelta

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # its list of names leaves it out

from mrpc_lightning.errors import InputError

# Processes that Lightning starts inherit the environment of the first one.
VARIABLE = "MRPC_LIGHTNING_DECIDED"
SECONDS = 120  # that a process waits for the first one
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
    launchers: tuple[type[TorchElasticEnvironment] | type[SLURMEnvironment], ...]
    launchers = (TorchElasticEnvironment, SLURMEnvironment)
    launched = next((launcher() for launcher in launchers if launcher.detect()), None)
    if launched is None or launched.world_size() == 1:
        os.environ[VARIABLE] = decide()
        return os.environ[VARIABLE]
    is_first = launched.global_rank() == 0
    store = TCPStore(
        launched.main_address,
        launched.main_port,
        # torchrun has a store of its own at this address.
        is_master=is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        multi_tenant=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=SECONDS),
    )
    key = f"mrpc_lightning/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_calls)}"
    if is_first:
        try:
            store.set(key, f"decided {decide()}")
        except BaseException as error:
            store.set(key, f"refused {error}")
            raise
        finally:  # the store ends with this function: every process must have read it
            for _ in range(10 * SECONDS):
                if store.add(f"{key}/read", 0) >= launched.world_size() - 1:
                    break
                time.sleep(0.1)
    verdict, _, content = store.get(key).decode().partition(" ")
    store.add(f"{key}/read", int(not is_first))
    if verdict == "refused":
        raise InputError(content)
    return content
