"""The sampler inside other people's trainers; each test is skipped where the library is not installed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kdbias.sampler.manifest_sampler import ManifestSampler

WEIGHTS = np.random.default_rng(0).lognormal(size=64)


def reference(epoch: int) -> list[int]:
    sampler = ManifestSampler(WEIGHTS, seed=7)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_lightning_sees_a_new_order_every_epoch(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    seen: list[list[int]] = []

    class Recorder(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def on_train_epoch_start(self) -> None:
            seen.append([])

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            seen[-1].extend(batch.tolist())
            return self.layer(batch[:, None].float()).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1e-4)

    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        use_distributed_sampler=False,
    )
    loader = DataLoader(torch.arange(64), batch_size=8, sampler=ManifestSampler(WEIGHTS, seed=7))
    trainer.fit(Recorder(), loader)
    assert seen == [reference(epoch) for epoch in range(3)]


def test_accelerate_passes_the_order_on(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    loader = DataLoader(torch.arange(64), batch_size=8, sampler=ManifestSampler(WEIGHTS, seed=7))
    loader = accelerate.Accelerator(cpu=True).prepare(loader)
    seen = [[i for batch in loader for i in batch.tolist()] for _ in range(2)]
    assert seen == [reference(0), reference(1)]


# Prints what each of two processes drew. With DistributedDataParallel the sampler slices by itself; with
# Accelerate every process draws the whole order, and Accelerate hands out the batches in turn.
PROCESS = """
import json, sys
import numpy as np, torch
from torch import distributed, nn
from torch.utils.data import DataLoader
from kdbias.sampler.manifest_sampler import ManifestSampler

def drawn(model, loader):
    seen = []
    for batch in loader:
        model(batch[:, None].float()).mean().backward()
        seen += batch.tolist()
    return seen

def loader(**place):
    sampler = ManifestSampler(np.array(json.loads(sys.argv[1])), seed=7, **place)
    return DataLoader(torch.arange(64), batch_size=8, sampler=sampler)

distributed.init_process_group("gloo")
found = {"rank": distributed.get_rank()}
found["ddp"] = drawn(nn.parallel.DistributedDataParallel(nn.Linear(1, 1)), loader())
try:
    from accelerate import Accelerator
except ImportError:
    pass
else:
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(nn.Linear(1, 1), loader(rank=0, world_size=1))
    found["accelerate"] = drawn(*prepared)
print(json.dumps(found))
"""


def test_two_processes_share_one_draw(tmp_path: Path) -> None:
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    together = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), json.dumps(WEIGHTS.tolist())],
            env={**os.environ, **together, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=150)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    found = [json.loads(text.strip().splitlines()[-1]) for text in printed]
    whole = reference(0)
    batches = [whole[start : start + 8] for start in range(0, 64, 8)]
    for rank, seen in enumerate(found):
        assert seen["rank"] == rank
        assert seen["ddp"] == whole[rank::2]
        if "accelerate" in seen:
            assert seen["accelerate"] == [i for batch in batches[rank::2] for i in batch]
