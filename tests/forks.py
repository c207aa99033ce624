"""A stage that is killed again and again, and one that two processes do: both are to end as any other."""

import subprocess
import sys
from pathlib import Path
from typing import Any

_SCRIPT = """
import importlib, os, random, sys
from kdbias import progress

module, function, source, folder, options, suffix, most = sys.argv[1:]
stage = getattr(importlib.import_module(module), function)

def do(name):
    with progress.quiet():
        stage(source, f"{folder}/{name}{suffix}", block_rows=1024, **eval(options))

def run(name, renames=-1, **environment):
    child = os.fork()
    if child:
        return child
    os.environ |= environment
    status, replace = 1, os.replace
    def counted(*args, **kwargs):
        nonlocal renames
        renames -= 1
        if renames == 0:
            os.kill(os.getpid(), 9)
        replace(*args, **kwargs)
    try:
        os.replace = counted
        do(name)
        status = 0
    finally:
        os._exit(status)

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

do("whole")  # and everything is imported
rng, deaths = random.Random(0), 0
while (status := ended(run("killed", rng.randint(3, int(most))))) == -9:
    deaths += 1
assert (status, deaths >= 3) == (0, True), (status, deaths)
ranks = [run("ranks", RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
assert [ended(child) for child in ranks] == [0, 0]
"""


def killed_and_helped(
    module: str,
    function: str,
    source: Path,
    folder: Path,
    options: dict[str, Any],
    suffix: str = "",
    most: int = 18,
) -> None:
    """Do a stage as ``whole``, ``killed`` at random renames until it ends, and by two ``ranks``.

    Args:
        module, function: of the stage, which takes a source, an output in ``folder`` and ``block_rows``.
        most: renames until a run is killed; few enough that it is killed three times or more.
    """
    given = [module, function, str(source), str(folder), repr(options), suffix, str(most)]
    subprocess.run([sys.executable, "-c", _SCRIPT, *given], check=True, timeout=240)
