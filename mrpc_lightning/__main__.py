import sys

from mrpc_lightning.usage import answer_at_once


def entry() -> None:
    """Run the command line of this process."""
    answer_at_once(sys.argv[1:])
    from mrpc_lightning.cli import main  # seconds of imports

    main()


if __name__ == "__main__":
    entry()
