import functools
import urllib.error
import urllib.request

import datasets
from huggingface_hub import constants

DEMO_COMMAND = "python -m mrpc_lightning fit --config configs/demo.yaml"


@functools.cache
def use_cache_if_unreachable() -> bool:
    """Ask the Hub once whether it is there; if it is not, make its libraries use their cache at once.

    Left alone, they retry each file for 23 s before they look into the cache.

    Returns:
        Whether the Hub can be reached.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True  # an answer all the same
    except OSError:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        return False
    return True


def explain(error: Exception) -> str:
    """Say in one line what went wrong when something was loaded from the Hub, and what to do."""
    if constants.HF_HUB_OFFLINE:
        return (
            f"not in the cache, and the Hugging Face Hub ({constants.ENDPOINT}) cannot be reached; "
            f"give a local folder, or try the demo, which needs no network: {DEMO_COMMAND}"
        )
    first_line = str(error).strip().split("\n")[0]
    return f"{first_line} ({type(error).__name__})"
