"""How a page of ``kdbias report`` is told from any other file."""

from pathlib import Path

MARK = "kdbias report"
_HEAD = 1024  # bytes of a file in which its mark stands


def is_page(path: Path) -> bool:
    """Whether ``kdbias report`` wrote this file: its head names it as the generator."""
    try:
        with open(path, "rb") as file:
            return f'<meta name="generator" content="{MARK}">'.encode() in file.read(_HEAD)
    except OSError:
        return False
