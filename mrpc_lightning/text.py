"""Numbers, times and names as a person reads them."""

import re
from collections.abc import Sequence

# ASCII's and Latin-1's control characters, and those that turn the direction of writing.
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

TAG = re.compile(r"<(?=[A-Za-z/!?])")  # what begins one in HTML, which Markdown may hold


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


def printable(text: str) -> str:
    """Replace control characters by their escapes: a terminal would obey them, and some reverse what follows."""
    return CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table, its header first, as Markdown that a terminal may show."""
    cells = [[TAG.sub("&lt;", printable(cell).replace("|", "\\|")) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "".join("| " + " | ".join(map(str.ljust, row, widths)) + " |\n" for row in cells)
