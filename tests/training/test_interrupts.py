"""Ctrl-C in a training run: the step at hand is finished and saved; pressed again, it ends at once."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbias.training.processes import deferred_interrupts
from kdbias.training.record import Meter


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("at", [2, 4])  # within an epoch of four steps, and at its end
def test_ctrl_c_saves_what_was_learned(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    options = {"epochs": 2, "batch_size": 15, "weights": None}
    lab.run(tmp_path / "whole", **options)
    add = Meter.add

    def add_then_press(self: Meter, *what: Any) -> None:
        add(self, *what)
        if self.step == at:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Meter, "add", add_then_press)
        with pytest.raises(KeyboardInterrupt):
            lab.run(tmp_path / "run", **options)
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["meter"]["step"] == at
    lab.run(tmp_path / "run", resume=True, **options)
    for key, value in lab.student(tmp_path / "whole").items():
        assert torch.equal(value, lab.student(tmp_path / "run")[key])


def test_pressed_again_it_ends_at_once() -> None:
    with deferred_interrupts() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_others_handlers_are_left_alone() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with deferred_interrupts() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert heard
            assert not interrupted()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
