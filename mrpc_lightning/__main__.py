"""`python -m mrpc_lightning`."""

import gc
import sys
from collections.abc import Callable
from typing import Any

from mrpc_lightning.cli.instant import answer_at_once, is_list, keep_memory


def entry() -> None:
    """Run the command line of this process."""
    command = answer_at_once(sys.argv[1:])
    keep_memory()
    try:
        if is_list(command):
            from mrpc_lightning.cli import listing

            listing.main(command, sys.argv[2:])
            return
        import_main()()
    except KeyboardInterrupt:  # from here on `main` handles it
        sys.stderr.write("stopped\n")
        sys.exit(130)


def import_main() -> Callable[..., Any]:
    """Import the command line, which takes seconds, and return its `main`.

    Python's garbage collector is off meanwhile, and told to pass over what was imported afterwards: it would look
    through objects that stay until the process ends. That saves a third of the time.
    """
    gc.disable()
    try:
        from mrpc_lightning.cli.app import main
    finally:
        gc.enable()
    gc.freeze()
    return main


if __name__ == "__main__":
    entry()
