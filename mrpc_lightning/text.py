"""Numbers, times and names as a person reads them."""


def count(number: int, noun: str) -> str:
    """Write a number with its noun, in the plural where it needs one."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """Write seconds the way a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def shorten(text: str, width: int = 60) -> str:
    """Cut a text for a line of the terminal."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
