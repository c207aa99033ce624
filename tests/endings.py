"""Runs that end early, as by a kill."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def ending_after(renames: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let so many files be renamed into place; the next one ends the run."""
    real, left = os.replace, iter(range(renames))

    def ends(*args: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", ends)
        yield
