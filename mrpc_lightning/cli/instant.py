"""What happens before anything heavy is imported: quick answers, and how the process is set up."""

import contextlib
import ctypes
import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from mrpc_lightning import __version__, demo
from mrpc_lightning.cli.flags import SUBCOMMANDS, help_of
from mrpc_lightning.errors import InputError

OVERVIEW = f"""usage: python -m mrpc_lightning SUBCOMMAND [--config FILE] [--flag value ...]

Fine-tune BERT, or another encoder, to tell whether two sentences say the same.

{{subcommands}}

Begin with:
  {demo.COMMAND}
  python -m mrpc_lightning test
  python -m mrpc_lightning fit --help

  --version   print the version
  --debug     after a subcommand: show the traceback of an error
"""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def answer_at_once(words: Sequence[str]) -> str:
    """Return the subcommand of a command line; answer --version, --help and a missing or mistyped one, and exit.

    A subcommand's `--help` shows the flags that matter; `--help all` is left to its parser, which takes seconds.

    Args:
        words: The command line.
    """
    if words and words[0] == "--version":
        print(f"mrpc_lightning {__version__}")
        sys.exit()
    if words and words[0] in ("--help", "-h"):
        print(OVERVIEW.format(subcommands="\n".join(f"  {name:10}{text}" for name, text in SUBCOMMANDS.items())))
        sys.exit()
    if words and words[0] in SUBCOMMANDS:
        asked = [words[place + 1 : place + 2] for place, word in enumerate(words) if word in ("--help", "-h")]
        if asked and asked != [["all"]] and not is_list(words[0]):
            with failing_in_one_line(debug=False):
                print(f"{help_of(words[0])}\nAll flags: python -m mrpc_lightning {words[0]} --help all", flush=True)
            sys.exit()
        return words[0]
    later = next((word for word in words if word in SUBCOMMANDS), None)
    if later is not None and words[0].startswith("-"):
        raise_usage(f"flags and --config go after {later}")
    first = next((word for word in words if not word.startswith("-")), None)
    if first is None:
        raise_usage(f"say what to do: {', '.join(SUBCOMMANDS)}; for example: {demo.COMMAND}")
    close = difflib.get_close_matches(first, SUBCOMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(SUBCOMMANDS)}"
    raise_usage(f"{first}: no such subcommand; {hint}")


def is_list(command: str) -> bool:
    """Say whether a subcommand looks at runs that are there, which `cli.listing` does."""
    return command in ("runs", "compare")


@contextlib.contextmanager
def failing_in_one_line(debug: bool, explain: Callable[[str], str] = str) -> Iterator[None]:
    """Print what goes wrong in one line and exit with code 2.

    Args:
        debug: Whether an error keeps its traceback.
        explain: What makes a message of an `InputError`'s text.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 is no reason to fail
    try:
        yield
    except InputError as error:
        if debug:
            raise
        raise_usage(explain(str(error)))
    except OSError as error:
        if error.filename is not None and not debug:
            raise_usage(f"{os.fsdecode(error.filename)}: {error.strerror}")
        if debug or error.errno not in (errno.ENOSPC, errno.EIO, errno.EPIPE):
            raise
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # else Python complains of it again when it ends
        if error.errno == errno.EPIPE:  # `| head` has read enough
            sys.exit(128 + 13)
        raise_usage(f"the output cannot be written: {error.strerror or error}")


def raise_usage(message: str) -> NoReturn:
    """Print an error in one line and exit with code 2."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)


def keep_memory() -> None:
    """Let this process keep the memory that it frees, in large pages. Call it before the first tensor is made.

    Otherwise glibc returns large blocks to the system after each step, and the system fills them with zeros for the
    next one.
    """
    if sys.platform != "linux":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch reads it once
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(option, 2**31 - 1)
