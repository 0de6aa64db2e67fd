class InputError(ValueError):
    """Something that the person at the keyboard can put right, said in one line.

    The command line prints it without a traceback and exits with code 2.
    """


class Stopped(Exception):
    """A signal asked the process to end, and it did so in good order.

    The command line prints the message and exits with 128 plus the signal's number, as shells have it.

    Args:
        signum: The signal's number.
        message: What was saved, and how to go on.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum
