"""The trainer in two real processes, as torchrun or a launcher like it starts them."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

# A network without batch norm (whose statistics are each process's own): everything else is shared exactly.
PLAIN = """
from torch import nn
def plain(*, dim, channels, image_size):
    pixels = channels * image_size[0] * image_size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 16), nn.Tanh(), nn.Linear(16, dim))
"""

# Reads its call from the command line: data, output, options as a Python literal.
SCRIPT = """
import ast, os, pathlib, signal, sys, types
import kdbias.networks
from kdbias.errors import KdbiasError
from kdbias.training.stage import train
from kdbias.training.record import Record
module = types.ModuleType("kdbias.networks.plain")
exec(PLAIN, module.__dict__)
sys.modules["kdbias.networks.plain"] = module
kdbias.networks.NETWORKS["plain"] = "plain:plain"
exec(os.environ.get("BEFORE_TRAINING", ""))
if len(sys.argv) > 4:  # stop at this step, with its checkpoint written
    save = Record.save
    def save_then_die(self, learned, sampler, meter):
        save(self, learned, sampler, meter)
        if meter.step == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
    Record.save = save_then_die
try:
    train(sys.argv[1], sys.argv[2], **ast.literal_eval(sys.argv[3]))
except KdbiasError as error:
    sys.exit(f"refused: {error}")
tasks = pathlib.Path("/proc/self/task")
left = [name for p in tasks.glob("*/comm") if "gloo" in (name := p.read_text().strip())]
if left:  # they can abort the interpreter's exit
    sys.exit(f"the group is gone, its threads are not: {left}")
"""


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", **more}


def command(lab: Any, out: Path, **options: Any) -> list[str]:
    script = lab.folder / "train_once.py"
    script.write_text(f"PLAIN = {PLAIN!r}\n{SCRIPT}")
    return [str(script), str(lab.data), str(out), repr(lab.options(**options))]


def together(
    lab: Any, out: Path, die_at: int | None = None, **options: Any
) -> list[subprocess.CompletedProcess[str]]:
    """Run with two processes, announced as torchrun does; the first dies once step `die_at` is saved."""
    death = [] if die_at is None else [str(die_at)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, *command(lab, out, **options), *death],
            env=environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    finished, hanging = [], False
    for process in started:
        try:
            out_text, err_text = process.communicate(timeout=280)
        except subprocess.TimeoutExpired:
            hanging = True
            process.send_signal(signal.SIGABRT)  # it says where it stood
            out_text, err_text = process.communicate()
        finished.append(subprocess.CompletedProcess(process.args, process.returncode, out_text, err_text))
    assert not hanging, "\n".join(f"process {i}:\n{r.stderr}" for i, r in enumerate(finished))
    return finished


def torchrun(lab: Any, out: Path, *, more: dict[str, str] | None = None, **options: Any) -> str:
    """Run with two processes of torchrun, as they should; what they printed to stderr."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*launch, *command(lab, out, **options)],
        env=environment(**(more or {})),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr
