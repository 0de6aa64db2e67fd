"""What `mkdocs build` puts into the pages of docs/: the command line's own help, and the config file."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from mrpc_lightning.cli.flags import SUBCOMMANDS

ROOT = Path(__file__).resolve().parents[1]


def help_of(*words: str) -> str:
    """Return what the command line prints."""
    command = [sys.executable, "-m", "mrpc_lightning", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout.strip()


def command_line() -> str:
    """Return a section for each subcommand, and all flags of `fit`."""
    parts = []
    for name, what in SUBCOMMANDS.items():
        parts.append(f"## {name}\n\n{what.capitalize()}.\n\n```text\n{help_of(name, '--help')}\n```\n")
    everything = help_of("fit", "--help", "all")
    rest = everything[everything.index("All flags, in groups:") :].replace("\n", "\n    ")
    folded = f'??? note "as `fit --help all` prints them"\n\n    ```text\n    {rest}\n    ```\n'
    parts.append(f"## All flags of fit\n\n{folded}")
    return "\n".join(parts)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the places that a page leaves for what is generated."""
    if "<!-- command line -->" in markdown:
        markdown = markdown.replace("<!-- command line -->", command_line())
    if "<!-- configs/mrpc.yaml -->" in markdown:
        config = (ROOT / "configs" / "mrpc.yaml").read_text(encoding="utf-8")
        markdown = markdown.replace("<!-- configs/mrpc.yaml -->", f"```yaml\n{config}```")
    return markdown
