"""Peak memory of `kdbias uniformity` against --memory.

    python benchmarks/peak_memory.py --n 60000 --d 256

Each row is one run of the command in a process of its own: the highest resident memory above that of a run
on 1,000 samples (the interpreter and its libraries), the part of it that the vectors take, and the rest,
which --memory bounds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
from contestants import clustered

MEASURE = """
import json, resource, sys, time
from kdbias import uniformity
from kdbias.progress import quiet
started = time.process_time()
with quiet():
    uniformity(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([peak, time.process_time() - started]))
"""


def measure(table: Path, out: Path, options: dict[str, object]) -> tuple[float, float] | str:
    """Peak MiB and CPU seconds, or what the command refused with."""
    call = [sys.executable, "-c", MEASURE, str(table), str(out), json.dumps(options)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1].partition(": ")[2]
    peak, seconds = json.loads(done.stdout.strip().splitlines()[-1])
    return peak, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=60_000)
    parser.add_argument("--d", type=int, default=256)
    parser.add_argument("--memory", action="append", help="repeatable [64MiB, 128MiB, 512MiB, 8GiB]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--search", default="exact")
    options = parser.parse_args()
    from kdbias.tables.embedding_table import write_embedding_table

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, n in (("small", 1_000), ("table", options.n)):
            ids = pa.array([f"{i:08}" for i in range(n)])
            write_embedding_table(root / name, ids, clustered(n, options.d))
        small = measure(root / "small", root / "none", {"threads": options.threads})
        if isinstance(small, str):
            sys.exit(small)
        vectors = options.n * options.d * 4 / 2**20
        print(f"n={options.n:,}, d={options.d}, --search {options.search}, {options.threads} threads")
        print(f"{'--memory':>10}{'peak MiB':>10}{'vectors':>10}{'rest':>10}{'CPU s':>8}")
        for memory in options.memory or ["64MiB", "128MiB", "512MiB", "8GiB"]:
            call = {"memory": memory, "threads": options.threads, "search": options.search}
            found = measure(root / "table", root / f"density-{memory}", call)
            if isinstance(found, str):
                print(f"{memory:>10}  refused: {found}")
                continue
            above = found[0] - small[0]
            columns = (above, vectors, above - vectors)
            print(f"{memory:>10}{''.join(f'{c:10.0f}' for c in columns)}{found[1]:8.1f}", flush=True)


if __name__ == "__main__":
    main()
