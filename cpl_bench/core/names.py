"""Names that are safe to be folders and files, wherever they come from.

Cards, records and preference files name what is written: a dataset's folder, a run's, a film's. So
a name is looked at where it enters, and what is made of it stays below the folder that is meant.
"""

import hashlib
import re

from cpl_bench.core.errors import UserError, shown

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,149}")
"""What a card may be called."""
LONGEST_FOLDER = 200
"""Bytes; file systems take 255, and locks and temporary files put something to it."""
LONGEST_PART = 100


def check_name(what: str, name: str) -> None:
    """Refuse what is no card's name.

    Raises:
        UserError: it is none; `what` is whose.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"{what} is made of letters, digits, - and _, not of more than 150, and begins with no "
            f"-; got {shown(name)}."
        )


def check_folder(what: str, name: str) -> None:
    """Refuse a name that is more than a single visible folder's: "..", "a/b", ".hidden".

    Raises:
        UserError: it is; `what` is whose.
    """
    length = len(name.encode(errors="surrogatepass"))
    apart = name.startswith(".") or "/" in name or "\\" in name or not name.isprintable()
    if apart or not 0 < length <= LONGEST_FOLDER:
        raise UserError(
            f"{what} is part of a folder's name: a line without / and \\ that begins with no dot, "
            f"of at most {LONGEST_FOLDER} bytes; got {shown(name)}."
        )


def check_line(what: str, text: str) -> None:
    """Refuse text that a table, a figure or a terminal cannot show in a line.

    Raises:
        UserError: it holds line ends or control characters; `what` is whose.
    """
    if not text.isprintable():
        raise UserError(f"{what} must be a line of letters that can be seen; got {shown(text)}.")


def file_part(text: str) -> str:
    """Any text as part of a file's name: itself if it can be, else a slug with its hash."""
    if NAME.fullmatch(text):
        return text
    return f"{slug(text)[:LONGEST_PART]}-{_hash(text)}"


GREEK = {"λ": "lam", "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "τ": "tau"}
"""How folders spell the letters of methods' names."""


def slug(text: str) -> str:
    """A folder's name from any text: "CPL (λ = 0.5)" → "cpl-lam-0.5".

    Text without a Latin letter or digit gives a name of its hash, never an empty one.
    """
    plain = re.sub(r"[^a-z0-9.]+", "-", text.lower().translate(str.maketrans(GREEK))).strip("-.")
    if plain or not text:
        return plain
    return f"name-{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
