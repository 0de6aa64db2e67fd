"""`python -m mrpc_lightning`."""

import sys

from mrpc_lightning.cli.instant import answer_at_once, import_main, keep_memory


def entry() -> None:
    """Run the command line of this process."""
    answer_at_once(sys.argv[1:])
    keep_memory()
    try:
        import_main()()
    except KeyboardInterrupt:  # from here on `main` handles it
        sys.stderr.write("stopped\n")
        sys.exit(130)


if __name__ == "__main__":
    entry()
