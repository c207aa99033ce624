"""Kill `kdbias embed` at random moments, run it again, and compare with an uninterrupted table.

    python benchmarks/embed_kill.py --kills 40

Every kill is SIGKILL to a real `kdbias embed` process with its decode workers, at a random moment of the
time that the work takes after the imports. Prints how many runs died, how many had made parts, and whether
the resumed table is the same.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from embed_engine import pictures

TEACHER = """
import time
import numpy as np

class Slow:
    preprocessing = {"size": [16, 16]}

    def embed(self, batch):
        time.sleep(0.001 * len(batch))
        return batch.reshape(len(batch), -1).astype(np.float32) + 1

def factory(device):
    return Slow()
"""


def start(data: Path, out: Path, teacher: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-c",
        "from kdbias.cli import main; main()",
        "embed",
        data,
        "-o",
        out,
        "--teacher",
        f"python:{teacher}:factory",
        "--rows-per-part",
        "50",
        "--batch-size",
        "16",
        "--workers",
        "2",
        "--device",
        "cpu",
    ]
    return subprocess.Popen(
        [str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--n", type=int, default=1000)
    options = parser.parse_args()
    from kdbias.tables.embedding_table import EmbeddingTable

    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, teacher = folder / "pictures.parquet", folder / "slow.py"
        pictures(options.n, data)
        teacher.write_text(TEACHER)
        process = start(data, folder / "whole", teacher)
        await_work(process)
        begun = time.monotonic()
        finish(process)
        span = time.monotonic() - begun
        whole = EmbeddingTable.open(folder / "whole")
        died, tables, out = [], 1, folder / "out0"
        while len(died) < options.kills:
            process = start(data, out, teacher)
            before = len(list(out.glob("part-*.parquet")))
            await_work(process)
            time.sleep(chance.uniform(0, span))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                died.append(len(list(out.glob("part-*.parquet"))) - before)
            else:
                check(out, whole)
                out = folder / f"out{tables}"
                tables += 1
        finish(start(data, out, teacher))
        check(out, whole)
        print(
            f"{len(died)} processes killed, {sum(1 for made in died if made)} of them after new parts "
            f"(at most {max(died)}); {tables} resumed tables, all equal to the uninterrupted one"
        )


def await_work(process: subprocess.Popen) -> None:
    """Imports take seconds: wait until the process says what it is about to do."""
    for line in process.stderr:
        if line.startswith("plan:"):
            return


def finish(process: subprocess.Popen) -> None:
    _, complaints = process.communicate()
    assert process.returncode == 0, complaints


def check(out: Path, whole) -> None:
    from kdbias.tables.embedding_table import EmbeddingTable

    table = EmbeddingTable.open(out)
    assert table.fingerprint == whole.fingerprint, out
    assert table.ids().equals(whole.ids())
    assert np.array_equal(table.vectors(), whole.vectors())


if __name__ == "__main__":
    main()
