"""Names that are safe to be folders and files."""

import hashlib
import re

NAME = re.compile(r"[A-Za-z0-9_-]+")
"""What a card may be called."""


def file_part(text: str) -> str:
    """Any text as part of a file's name: itself if it can be, else a slug with its hash."""
    if NAME.fullmatch(text):
        return text
    return f"{slug(text)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def slug(text: str) -> str:
    """A folder's name from any text: "CPL (λ = 0.5)" → "cpl-lam-0.5".

    Text without a Latin letter or digit gives a name of its hash, never an empty one.
    """
    plain = re.sub(r"[^a-z0-9.]+", "-", text.lower().replace("λ", "lam")).strip("-.")
    if plain or not text:
        return plain
    return f"name-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
