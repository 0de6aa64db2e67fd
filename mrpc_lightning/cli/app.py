"""`main(args)`: one command from its words to its end, with every mistake said in one line."""

import contextlib
import inspect
import os
import re
import sys

from mrpc_lightning.cli import commands, listing
from mrpc_lightning.cli.build import CLI
from mrpc_lightning.cli.console import quieten
from mrpc_lightning.cli.instant import answer_at_once, failing_in_one_line, is_list
from mrpc_lightning.cli.parser import SECTIONS, with_packaged_configs
from mrpc_lightning.errors import Stopped
from mrpc_lightning.run.processes import failing_together
from mrpc_lightning.run.signals import stopping_at_once


def main(args: list[str] | None = None) -> CLI | None:
    """Run the command line.

    Args:
        args: The words after the program's name; without it, those of this process.

    Returns:
        The finished command line, with its `trainer`, `model` and `datamodule`; None from `runs` and `compare`.
    """
    quieten()
    words = sys.argv[1:] if args is None else args
    command = answer_at_once(words)
    if is_list(command):
        listing.main(command, words[1:])
        return None
    if command == "predict":  # as other programs have it: a bare "-" that is no flag's value
        alone = [False, *(not re.fullmatch(r"--[^=]+", before) for before in words)]
        dashes = [word == "-" and each for word, each in zip(words, alone, strict=False)]
        words = ["--data.predict_file=-" if dash else word for word, dash in zip(words, dashes, strict=True)]
    if {"--help", "-h"} & {*words}:  # followed by "all": else it has been answered
        words = [command, "--help"]
    words = with_packaged_configs(words)
    debug = "--debug" in words
    try:
        with failing_in_one_line(debug, with_dashes), contextlib.ExitStack() as ending, stopping_at_once():
            with failing_together():
                cli = CLI(command, words[1:], ending)
            commands.run(cli)
            return cli
    except Stopped as stopped:
        with contextlib.suppress(OSError):  # the terminal may have gone
            if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes one says it
                # The cursor may stand behind a progress bar.
                sys.stderr.write("\n" * sys.stderr.isatty() + f"{stopped}\n")
        sys.exit(128 + stopped.signum)


def with_dashes(message: str) -> str:
    """Return a message in which keys such as model.learning_rate are flags."""
    names = [f"{section}.{name}" for section, made in SECTIONS.items() for name in inspect.signature(made).parameters]
    return re.sub(rf"(?<![\w.\-/=])(?=(?:{'|'.join(map(re.escape, names))}|ckpt_path)\b)", "--", message)
