"""Ctrl-C ends a command at once: one line that says how to go on, status 130, no process left behind."""

import os
import signal
import subprocess
import sys

import pytest

ENDLESS = {
    "train": ("train {data} -o {out} --embeddings {emb} --epochs 1000000 --workers 2", "train:"),
    "evaluate": ("evaluate {emb} -o {out} --bootstrap 1000000", "evaluate:"),
}


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("reaches", [os.killpg, os.kill], ids=["all processes", "the first alone"])
def test_interrupt(small, tmp_path, name, reaches):
    command, begun = ENDLESS[name]
    words = command.format(out=tmp_path / "out", **small).split()
    process = subprocess.Popen(
        [sys.executable, "-m", "kdbias.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert any(line.startswith(begun) for line in process.stderr)
    reaches(process.pid, signal.SIGINT)
    _, rest = process.communicate()  # ends once no process of the command holds the pipes
    assert process.returncode == 130
    lines = [line for line in rest.splitlines() if not line.startswith(begun)]
    assert lines == ["Error: interrupted; run the same command again to go on from what is saved"]
