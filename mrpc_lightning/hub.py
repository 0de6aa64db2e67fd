import functools
import importlib
from pathlib import Path

import datasets
import huggingface_hub
from huggingface_hub import constants

from mrpc_lightning import demo
from mrpc_lightning.errors import InputError


@functools.cache
def use_cache_if_unreachable() -> None:
    """Ask the Hub once whether it is there; if it is not, make its libraries use their cache at once.

    Left alone, they retry each file for 23 s before they look into the cache.
    """
    if constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=10)
    except (OSError, transport_error()):
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def transport_error() -> type[Exception]:
    """Return what the Hub's client raises where there is no connection."""
    name = type(huggingface_hub.get_session()).__module__.partition(".")[0]  # httpx, or what replaces it
    error: type[Exception] = importlib.import_module(name).TransportError
    return error


def prepare(source: str, key: str) -> None:
    """Check that a model can be loaded: from a folder that holds one, or from a Hub that is there or its cache.

    Raises:
        InputError: If the source names a folder that is not there, or that holds no model.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / "tokenizer_config.json").is_file():
            raise InputError(f"{key}: the folder holds no model (no config.json) and no run (no checkpoints)")
    elif folder.is_absolute() or source.startswith((".", "~")):
        raise InputError(f"{key}: no such folder")
    else:
        use_cache_if_unreachable()


def explain(error: Exception, source: str) -> str:
    """Say in one line what went wrong when something was loaded, and what to do.

    Args:
        error: What the Hugging Face libraries raised.
        source: The name on the Hub, or the folder, that was to be loaded.
    """
    if constants.HF_HUB_OFFLINE and not Path(source).exists():
        return (
            f"not in the cache, and the Hugging Face Hub ({constants.ENDPOINT}) cannot be reached; "
            f"give a local folder, or try the demo, which needs no network: {demo.COMMAND}"
        )
    return (str(error).strip() or "no reason given").split("\n")[0]
