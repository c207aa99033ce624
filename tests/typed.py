"""Commands of a document, typed as they stand, against what it shows them to print."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a block with what it is said to print."""
    return re.findall(r"^\$ (.*?)\n(.*?)(?=^\$ |\Z)", block, re.S | re.M)


def flat(text: str) -> str:
    return " ".join(text.split())


def unlike(block: str, folder: Path) -> list[str]:
    """Types a block in a folder; says what is shown there and not printed, ``...`` standing for anything."""
    program, known, wrong = Path(sys.executable).with_name("kdbias"), dict(os.environ), []
    for command, shown in commands(block):
        words = [re.sub(r"\$(\w+)", lambda name: known[name[1]], word) for word in shlex.split(command)]
        if assigned := re.fullmatch(r"([A-Z]+)=(.*)", " ".join(words)):
            known[assigned[1]] = assigned[2]
            continue
        assert words[0] == "kdbias"
        done = subprocess.run(
            [program, *words[1:]], cwd=folder, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
        came, at = flat(done.stdout + done.stderr), 0
        for part in re.split(r"\s*\.\.\.\n", shown):
            found = came.find(flat(part), at)
            if found < 0:
                wrong.append(f"{command}\nshows\n{part}\nbut prints\n{done.stdout}")
            at = max(at, found)
    return wrong
