"""What the command line answers at once, before anything heavy is imported."""

import difflib
import sys
from collections.abc import Sequence
from typing import NoReturn

from mrpc_lightning import __version__, demo

SUBCOMMANDS = {
    "fit": "train, keep the best checkpoint, and score it",
    "validate": "score a checkpoint on the validation split",
    "test": "score a checkpoint on the validation split, or on the test split where its labels are known",
    "predict": "write a checkpoint's answer for each pair of a file",
    "export": "write a checkpoint as a model folder for transformers",
}
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


def answer_at_once(words: Sequence[str]) -> None:
    """Answer what needs no library: --version, --help, and a missing or mistyped subcommand; and exit.

    Args:
        words: The command line.
    """
    if words and words[0] == "--version":
        print(f"mrpc_lightning {__version__}")
        sys.exit()
    if words and words[0] in ("--help", "-h"):
        print(OVERVIEW.format(subcommands="\n".join(f"  {name:10}{text}" for name, text in SUBCOMMANDS.items())))
        sys.exit()
    names = [word for word in words if word in SUBCOMMANDS]
    first = next((word for word in words if not word.startswith("-")), None)
    if names or (words and words[0].startswith("-") and first is not None):
        return
    if first is None:
        raise_usage(f"say what to do: {', '.join(SUBCOMMANDS)}; for example: {demo.COMMAND}")
    close = difflib.get_close_matches(first, SUBCOMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(SUBCOMMANDS)}"
    raise_usage(f"{first}: no such subcommand; {hint}")


def raise_usage(message: str) -> NoReturn:
    """Print an error in one line and exit with code 2."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)
