"""Devices, amounts of memory, optional libraries and progress."""

import io
import json

import pytest

from kdbias.device import parse_bytes, resolve_device
from kdbias.errors import KdbiasError
from kdbias.optional import require
from kdbias.progress import bar, quiet, say


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4GiB", 4 * 2**30), ("512MB", 512 * 10**6), ("1.5 kib", 1536), ("10", 10), (7, 7), ("2G", 2 * 10**9)],
)
def test_amounts_of_memory(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "0", "-4GiB", "1.2.3GiB", 0])
def test_nonsense_memory_is_refused(text):
    with pytest.raises(KdbiasError, match="not an amount of memory"):
        parse_bytes(text)


def test_devices():
    import torch

    assert resolve_device("cpu") == "cpu"
    with pytest.raises(KdbiasError, match="'gpu'"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        assert resolve_device("auto") == "cpu"
        with pytest.raises(KdbiasError, match="torch sees 0 CUDA"):
            resolve_device("cuda")


def test_a_missing_library_names_its_install_line():
    assert require("json") is json
    with pytest.raises(KdbiasError, match=r"pip install 'kdbias\[onnx\]'"):
        require("a_library_nobody_has", extra="onnx")


def test_progress_goes_to_stderr_and_can_be_silenced(monkeypatch, capsys):
    say("one")
    with quiet():
        say("two")
        with bar(10, "rows", "reading") as progress:
            progress.update(10)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "one\n"


def test_without_a_terminal_the_bar_prints_lines(monkeypatch):
    clock = iter([0.0, 5.0, 11.0])
    monkeypatch.setattr("kdbias.progress.time.monotonic", lambda: next(clock))
    err = io.StringIO()
    monkeypatch.setattr("sys.stderr", err)
    with bar(100, "rows", "reading") as progress:
        progress.update(10)
        progress.update(45)
    assert err.getvalue().splitlines() == ["reading: 55/100 rows, 5.0 rows/s, 9 s left"]


def test_what_an_earlier_session_did_does_not_count_in_the_rate(monkeypatch):
    clock = iter([0.0, 11.0])
    monkeypatch.setattr("kdbias.progress.time.monotonic", lambda: next(clock))
    err = io.StringIO()
    monkeypatch.setattr("sys.stderr", err)
    with bar(10_000, "steps", "train", done=9_000) as progress:
        progress.update(22)
    assert err.getvalue().splitlines() == ["train: 9,022/10,000 steps, 2.0 steps/s, 489 s left"]
