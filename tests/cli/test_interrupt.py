"""Ctrl-C, SIGTERM and SIGHUP end a command at once: one line that says how to go on, no process left."""

import os
import signal
import subprocess
import sys

import pytest

SLOW = """
import time
import numpy as np

class Slow:
    preprocessing = {"size": [12, 12], "color": "L", "mean": [0], "std": [1]}

    def embed(self, batch):
        print("embed: at work", file=__import__("sys").stderr, flush=True)
        time.sleep(0.05)
        return batch.reshape(len(batch), -1).astype(np.float32) + 1

def factory(device):
    return Slow()
"""
ENDLESS = {
    "embed": (
        "embed {data} -o {out} --teacher python:{slow}:factory --workers 2 --batch-size 1 --rows-per-part 4",
        "embed: at work",
    ),
    "train": ("train {data} -o {out} --embeddings {emb} --epochs 1000000 --workers 2", "train:"),
    "evaluate": ("evaluate {emb} -o {out} --bootstrap 1000000", "evaluate:"),
}


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
@pytest.mark.parametrize(
    ("name", "number", "reaches"),
    [
        *((name, "SIGINT", reaches) for name in ("train", "evaluate") for reaches in (os.killpg, os.kill)),
        ("train", "SIGTERM", os.kill),
        ("train", "SIGHUP", os.killpg),
        ("evaluate", "SIGHUP", os.kill),
        ("embed", "SIGTERM", os.killpg),
    ],
)
def test_interrupt(small, tmp_path, name, number, reaches):
    command, begun = ENDLESS[name]
    (tmp_path / "slow.py").write_text(SLOW)
    words = command.format(out=tmp_path / "out", slow=tmp_path / "slow.py", **small).split()
    process = subprocess.Popen(
        [sys.executable, "-m", "kdbias.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert any(line.startswith(begun) for line in process.stderr)
    reaches(process.pid, getattr(signal, number))
    _, rest = process.communicate()  # ends once no process of the command holds the pipes
    assert process.returncode == 128 + getattr(signal, number)
    lines = [line for line in rest.splitlines() if not line.startswith(begun)]
    assert lines == ["Error: interrupted; run the same command again to go on from what is saved"]


IGNORED = {
    "a destructor": """
class Gone:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def press():
    Gone()
""",
    "a callback of a weak reference": """
import weakref

class Gone:
    pass

def press():
    gone = Gone()
    weakref.finalize(gone, signal.raise_signal, signal.SIGINT)
""",
    "what is called around a fork": """
import os, threading
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))

def press():
    if not (child := os.fork()):
        os._exit(0)
    os.waitpid(child, 0)
""",
}


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
@pytest.mark.parametrize("where", IGNORED)
def test_ctrl_c_where_python_ignores_it_ends_the_command_all_the_same(small, tmp_path, where):
    factory = "def factory(device):\n    press()\n    return Slow()\n"
    code = SLOW[: SLOW.index("def factory")] + "\nimport signal\n" + IGNORED[where] + factory
    (tmp_path / "ignores.py").write_text(code)
    teacher = f"python:{tmp_path / 'ignores.py'}:factory"
    words = ["embed", small["data"], "-o", tmp_path / "out", "--teacher", teacher, "--batch-size", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "kdbias.cli", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 130
    assert "Exception ignored" not in ended.stderr
    assert ended.stderr.endswith(
        "Error: interrupted; run the same command again to go on from what is saved\n"
    )
