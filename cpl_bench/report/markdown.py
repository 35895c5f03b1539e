"""Tables in Markdown."""

from html import escape


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all but its first column are numbers."""
    ruler = f"|---|{'--:|' * (len(header) - 1)}"
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], ruler, *lines[1:]])


def cell(text: str) -> str:
    """Somebody's text as a page shows it: it ends no cell, and is no HTML."""
    return escape(text, quote=False).replace("|", "\\|")
