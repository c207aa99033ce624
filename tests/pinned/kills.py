"""Break a stage off after each of its renames, run the same command again, and say what came out.

``python -m tests.pinned.kills WORLD FOLDER`` writes FOLDER/kills.json. Each run is a fork of a process that
has everything imported, as a fresh one would spend seconds on that. A rename is what makes a file exist.
"""

import csv
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.pinned.world import TEACHER, TIMES

DIED = 99
POINTS = 3  # kills of a stage, evenly over its renames
_EVALUATE = "evaluate {w}/emb -o {o} --bootstrap 20"

STAGES: dict[str, list[str]] = {
    "embed": [
        f"embed {{w}}/data.parquet -o {{o}} --teacher {TEACHER} --workers 0 --rows-per-part 100 --flip"
    ],
    "embed what is new": [
        f"embed {{w}}/data.parquet -o {{o}} --teacher {TEACHER} --rows-per-part 99 --where race!=r1",
        f"embed {{w}}/data.parquet -o {{o}} --teacher {TEACHER} --rows-per-part 99 --append",
    ],
    "uniformity": ["uniformity {w}/emb -o {o} --t 4 --k 5 --rectification none --threads 1 --keep-neighbors"],
    "a scheme more": [
        "uniformity {w}/emb -o {o} --t 4 --k 5 --rectification none --threads 1",
        "uniformity {w}/emb -o {o} --t 4 --k 5 --rectification none --threads 1 "
        "--weights {w}/weights/equilibrium.parquet",
    ],
    "in place of another": [
        "uniformity {w}/emb -o {o} --t 2 --k 9 --rectification none --threads 1",
        "uniformity {w}/emb -o {o} --t 4 --k 5 --rectification none --threads 1 --overwrite",
    ],
    "weights": ["weights {w}/density -o {o}/w.parquet --method class-balanced"],
    "changes": ["changes {w}/weights/hard.parquet -o {o}"],
    "frontier": ["weights {w}/density -o {o} --frontier --t 2 --tolerance 0.1 --threads 1"],
    "evaluate": [_EVALUATE],
    "evaluate a model": [
        "evaluate {w}/run -o {o} --data {w}/data.parquet --bootstrap 0 --workers 0 --protocol fidelity "
        "--reference {w}/emb"
    ],
    "report": ["report {w}/score/linear -o {o}/page.html"],
    "train": [
        "train {w}/data.parquet -o {o} --embeddings {w}/emb --epochs 2 --batch-size 100 --threads 1 "
        "--workers 0 --checkpoint-seconds 0"
    ],
}
"""The last command of each is the one that is killed."""


def run(command: list[str]) -> int:
    from click.testing import CliRunner

    from kdbias.cli import main

    return CliRunner().invoke(main, [*command, "-q"]).exit_code


def forked(command: list[str], renames: int | None = None) -> tuple[int, int]:
    """Run in a fork that dies after so many renames; its status, and how many renames it came to."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        done, rename = 0, os.replace

        def counted(*args: Any, **kwargs: Any) -> None:
            nonlocal done
            rename(*args, **kwargs)
            done += 1
            if done == renames:
                os._exit(DIED)

        os.replace, os.fsync = counted, lambda descriptor: None  # a kill is no power cut
        status = 1
        try:
            status = run(command)
            os.write(writes, str(done).encode())
        finally:
            os._exit(status)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        told = pipe.read()
    _, state = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(state), int(told or 0)


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def digest(folder: Path) -> dict[str, str]:
    """What each file of an output says, less times; of checkpoints, pictures and pages that they exist."""
    found = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        found[str(file.relative_to(folder))] = hashlib.sha256(content(file)).hexdigest()
    return found


def content(file: Path) -> bytes:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(file)
        return repr((table.schema.names, table.schema.types, table.to_pydict())).encode()
    if file.suffix == ".json":
        return repr(timeless(json.loads(file.read_text()))).encode()
    if file.name == "student.pt":
        from kdbias.networks.saved import load_network

        tensors = load_network(file.parent)[0].state_dict()
        return b"".join(t.numpy().tobytes() for t in tensors.values())
    if file.suffix == ".csv":
        with open(file, newline="") as text:
            return repr([timeless(row) for row in csv.DictReader(text)]).encode()
    return file.read_bytes() if file.suffix == ".toml" else b""


def points(renames: int) -> list[int]:
    return sorted({1 + round(i * (renames - 1) / (POINTS - 1)) for i in range(POINTS)})


def trials(name: str, world: Path, out: Path) -> list[dict[str, Any]]:
    """One whole run, then a broken one for each point, each in the same folder."""
    *before, last = ([part.format(w=world, o=out) for part in line.split()] for line in STAGES[name])

    def begin() -> None:
        shutil.rmtree(out, ignore_errors=True)
        for command in before:
            assert forked(command)[0] == 0

    begin()
    status, renames = forked(last)
    wanted = digest(out)
    tried: list[dict[str, Any]] = [{"status": status, "renames": renames, "files": sorted(wanted)}]
    for point in points(renames):
        begin()
        killed, _ = forked(last, point)
        again, _ = forked(last)
        found = digest(out)
        unlike = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        tried.append({"after": point, "killed": killed, "again": again, "unlike": unlike})
    return tried


def preload(world: Path, folder: Path) -> None:
    """Import what the stages import when they run. Nothing here computes gradients: that does not fork."""
    import kdbias.training.loop  # noqa: F401

    for name in ("uniformity", "weights", "evaluate", "report", "frontier"):
        out = folder / "first" / name.replace(" ", "-")
        assert run(STAGES[name][-1].format(w=world, o=out).split()) == 0


def main() -> None:
    world, folder = Path(sys.argv[1]), Path(sys.argv[2])
    preload(world, folder)
    tried = {name: trials(name, world, folder / "out") for name in STAGES}
    (folder / "kills.json").write_text(json.dumps(tried, indent=1))


if __name__ == "__main__":
    main()
