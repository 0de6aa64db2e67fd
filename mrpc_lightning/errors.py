class InputError(ValueError):
    """Something that the person at the keyboard can put right, said in one line.

    The command line prints it without a traceback and exits with code 2.
    """
