"""What a shell proposes after Tab: asked of the command line itself, and of a bash in a terminal."""

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pty = pytest.importorskip("pty")
CODE = "from kdbias.cli import main; main(prog_name='kdbias')"


def proposed(*words: str) -> list[str]:
    """Type and value of each proposal for the last word."""
    asked = {"COMP_WORDS": " ".join(("kdbias", *words)), "COMP_CWORD": str(len(words))}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | asked | {"_KDBIAS_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("wei",), ["plain,weights"]),
        (("uniformity", "emb", "--sea"), ["plain,--search"]),
        (("uniformity", "emb", "--search", "h"), ["plain,hnsw"]),
        (("weights", "density", "--method", "cl"), ["plain,class-balanced", "plain,cluster-balanced"]),
        (("weights", "density", "--device", "c"), ["plain,cpu", "plain,cuda"]),
        (("train", "data", "--device", "c"), ["plain,cpu", "plain,cuda"]),
        (("train", "data", "--student", "mob"), ["plain,mobilefacenet", "plain,mobilefacenet_x2"]),
        (("embed", "photo"), ["file,photo"]),
        (("embed", "photos", "-o", "e"), ["file,e"]),
        (("embed", "photos", "--root", "e"), ["file,e"]),
        (("uniformity", "emb", "--towards", "d"), ["file,d"]),
        (("compare", "a", "--to", "b"), ["file,b"]),
        (("report", "one", "two"), ["file,two"]),
        (("embed", "photos", "--id-column", "e"), []),
    ],
)
def test_what_is_proposed(words: tuple[str, ...], expected: list[str]) -> None:
    assert proposed(*words) == expected


def test_bash_completes_commands_values_and_paths(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if (
        bash is None
        or "compopt" not in subprocess.run([bash, "-c", "enable"], capture_output=True, text=True).stdout
    ):
        pytest.skip("needs a bash with programmable completion")
    program = tmp_path / "bin" / "kdbias"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{CODE}" "$@"\n')
    program.chmod(0o755)
    (tmp_path / "photographs").mkdir()
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.environ |= {"PATH": f"{program.parent}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "> "}
        os.execv(bash, [bash, "--norc", "--noprofile", "-i"])
    try:
        _type(terminal, 'eval "$(_KDBIAS_COMPLETE=bash_source kdbias)"; echo re""ady\n', until="ready")
        _type(terminal, "kdbias insp\t", until="kdbias inspect ")
        _type(terminal, "phot\t", until="photographs/")
        _type(terminal, "\x15kdbias uniformity emb --search iv\t", until="--search ivf ")
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def _type(terminal: int, text: str, until: str) -> None:
    """Send keys, and read what the terminal shows until a text is there."""
    os.write(terminal, text.encode())
    shown, end = "", time.monotonic() + 60
    while until not in shown:
        assert time.monotonic() < end, f"{until!r} is not in {shown!r}"
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
