"""How a command ends when it does not end well."""


class InputError(ValueError):
    """A mistake that the person at the keyboard can correct, said in one line.

    The command line prints it without a traceback and exits with code 2.
    """


class Stopped(BaseException):
    """A signal asked the process to end, and it did so in good order.

    The command line prints the message and exits with 128 plus the signal's number, as shells do. It is no `Exception`,
    so that a library that catches all of these does not catch it, as it does not catch `KeyboardInterrupt`.

    Args:
        signum: The signal's number.
        message: What was saved, and how to resume.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum
