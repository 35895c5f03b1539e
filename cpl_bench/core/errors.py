"""The one exception for user mistakes, and how messages show what others wrote.

It stands apart so that no worker imports torch for it.
"""

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 100
"""Letters of somebody's value that a message shows."""
FEW = 5
"""Names that a message shows where there are too many to list."""
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of what steers a terminal instead of being seen, or is half a letter."""


class UserError(Exception):
    """A mistake the user can mend: printed without a traceback, exit code 2."""


def unknown_name(
    kind: str, name: str, known: Iterable[str], hint: str = "", lists: str = ""
) -> UserError:
    """What to raise when `name` is no known `kind`: the nearest name, then the list; of many names
    the nearest ones, and the command that `lists` them all."""
    names, name = sorted(known), shortened(name)
    near = get_close_matches(name, names, n=FEW, cutoff=0.5)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    said = f"Known: {', '.join(names) or 'none'}."
    if lists and len(names) > FEW:
        said = f"Others near: {', '.join(near[1:])}. " if near[1:] else ""
        said += f"All: {lists}."
    return UserError(f"No {kind} is called '{name}'.{guess} {said} {hint}".strip())


def visible(text: str) -> str:
    """The text with what would steer a terminal written out: ESC as \\x1b; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(
        each if each in "\n\t" or unicodedata.category(each) not in HIDDEN else _written_out(each)
        for each in text
    )


def shown(value: object) -> str:
    """Any value as a message shows it: its beginning, in a line."""
    try:
        return shortened(repr(value))
    except ValueError:  # more digits than Python writes
        return "a number of thousands of digits"
    except RecursionError:
        return f"a {type(value).__name__} nested too deeply"


def shortened(text: str) -> str:
    """The beginning of somebody's text, in a line."""
    line = in_a_line(text[: LONGEST + 1])
    return line if len(text) <= LONGEST else f"{line[:LONGEST]}…"


def in_a_line(text: str) -> str:
    """The text with line ends written out, too."""
    return visible(text).replace("\n", "\\n")


def _written_out(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
