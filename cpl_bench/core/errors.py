"""The one exception for user mistakes. It stands apart so that no worker imports torch for it."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake the user can mend: printed without a traceback, exit code 2."""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """What to raise when `name` is no known `kind`: the nearest name, then the list."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    listing = ", ".join(names) if names else "none"
    return UserError(f"No {kind} is called '{name}'.{guess} Known: {listing}. {hint}".strip())
