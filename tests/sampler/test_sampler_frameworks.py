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

from kdbias.errors import KdbiasError
from kdbias.sampler import IdentitySampler, ManifestSampler

LONGEST = 600  # seconds: 8 of one core, ten times that were seen beside other jobs
WEIGHTS = np.random.default_rng(0).lognormal(size=64)


def reference(epoch: int) -> list[int]:
    sampler = ManifestSampler(WEIGHTS, seed=7, rank=0, world_size=1)
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


# Writes what each of two processes drew through every way that a trainer may slice, all by default. They are
# forks of one, so that what takes the time, imports, is done once.
PROCESS = """
import faulthandler, importlib, json, os, sys
import numpy as np, torch, torch.distributed.nn
from torch import distributed, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from kdbias.sampler import IdentitySampler, ManifestSampler
if importlib.util.find_spec("accelerate"):
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

other = os.fork()
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if other else "1"
sys.stderr = open(f"{sys.argv[2]}/{os.environ['RANK']}.txt", "w")
faulthandler.dump_traceback_later(int(sys.argv[3]), file=sys.stderr, exit=True)

def drawn(loader):
    return [i for batch in loader for i in batch.tolist()]

def loader(workers=0, **place):
    sampler = ManifestSampler(np.array(json.loads(sys.argv[1])), seed=7, **place)
    return DataLoader(torch.arange(64), batch_size=8, sampler=sampler, num_workers=workers)

def identities():
    labels = [f"id{i % 8}" for i in range(64)]
    sampler = IdentitySampler(np.ones(64), labels, identities=4, instances=2, seed=7)
    return DataLoader(torch.arange(64), batch_sampler=sampler)

class Draws(Dataset):
    "A data set that is itself what the sampler draws."
    def __init__(self, sampler):
        self.sampler, self.drawn = sampler, None
    def __len__(self):
        return len(self.sampler)
    def __getitem__(self, i):
        self.drawn = list(self.sampler) if self.drawn is None else self.drawn
        return self.drawn[i]

class Wrapper(DistributedSampler):
    "As several trainers have one: slices whatever the sampler gives."
    def __init__(self, sampler):
        super().__init__(Draws(sampler), shuffle=False)
    def __iter__(self):
        return (self.dataset[i] for i in super().__iter__())

before = loader()
assert len(before) == 4
distributed.init_process_group("gloo")
found = {"rank": distributed.get_rank()}
found["before the group"] = drawn(before)
model = nn.parallel.DistributedDataParallel(nn.Linear(1, 1))
trained = loader()
found["ddp"] = [[], []]
for epoch in found["ddp"]:
    for batch in trained:
        model(batch[:, None].float()).mean().backward()
        epoch += batch.tolist()
found["shared memory"] = drawn(loader(shared_memory=True))
found["identities"] = drawn(identities())
found["wrapped"] = list(Wrapper(loader().sampler))
found["whole"] = drawn(loader(rank=0, world_size=1))
if "Accelerator" in globals():
    for name, options in {
        "accelerate": {},
        "accelerate split": {"split_batches": True},
        "accelerate dispatch": {"dispatch_batches": True},
        "accelerate uneven": {"even_batches": False, "use_seedable_sampler": True},
    }.items():
        prepare = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options)).prepare
        prepared = prepare(loader(workers=1 if name == "accelerate" else 0))
        found[name] = drawn(prepared), drawn(prepared), len(prepared)
    found["accelerate whole"] = drawn(Accelerator(cpu=True).prepare(loader(rank=0, world_size=1)))
    found["accelerate identities"] = drawn(Accelerator(cpu=True).prepare(identities()))
with open(f"{sys.argv[2]}/{found['rank']}.json", "w") as file:
    json.dump(found, file)
sys.stderr.flush()
if other:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
os._exit(0)  # no threads of the first
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="two processes are forks of one")
def test_two_processes_share_one_draw_however_it_is_sliced(tmp_path: Path) -> None:
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    together = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ended = subprocess.run(
        [sys.executable, str(script), json.dumps(WEIGHTS.tolist()), str(tmp_path), str(LONGEST)],
        env={**os.environ, **together},
        capture_output=True,
        text=True,
    )
    told = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert ended.returncode == 0, (ended.stderr, told)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    whole, second = reference(0), reference(1)
    for rank, seen in enumerate(found):
        assert seen["rank"] == rank
        for way in ("before the group", "shared memory", "wrapped"):
            assert seen[way] == whole[rank::2], way
        assert seen["ddp"] == [whole[rank::2], second[rank::2]]
        assert seen["whole"] == whole
        assert told[rank].count("each process draws the whole epoch") == 1
    labels = [f"id{i % 8}" for i in range(64)]
    identities = list(IdentitySampler(np.ones(64), labels, identities=4, instances=2, seed=7))
    for rank, seen in enumerate(found):
        taken = [batch[2 * i : 2 * i + 2] for batch in identities for i in range(rank, 4, 2)]
        assert seen["identities"] == [i for pair in taken for i in pair]
    if "accelerate" not in found[0]:
        return
    for rank, seen in enumerate(found):
        turn = [i for start in range(8 * rank, 64, 16) for i in whole[start : start + 8]]
        half = [i for start in range(4 * rank, 64, 8) for i in whole[start : start + 4]]
        assert seen["accelerate"][0] == seen["accelerate whole"] == turn
        assert seen["accelerate split"][0] == half
        assert [seen[way][2] for way in ("accelerate", "accelerate split")] == [4, 8]
        assert seen["accelerate identities"] == [i for batch in identities[rank::2] for i in batch]
    for way in ("accelerate", "accelerate split", "accelerate dispatch", "accelerate uneven"):
        for epoch, order in enumerate((whole, second)):
            assert sorted(found[0][way][epoch] + found[1][way][epoch]) == sorted(order), way


# Lightning's Trainer with its defaults; the loader is made before there are two processes.
LIGHTNING = """
import json, logging, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import lightning, numpy as np, torch
from torch.utils.data import DataLoader
from kdbias import ManifestSampler

class Recorder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), []
    def on_train_epoch_start(self):
        self.seen.append([])
    def training_step(self, batch, index):
        self.seen[-1] += batch.tolist()
        return self.layer(batch[:, None].float()).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-4)
    def train_dataloader(self):
        return loader

sampler = ManifestSampler(np.array(json.loads(sys.argv[1])), seed=7)
loader = DataLoader(torch.arange(64), batch_size=4, sampler=sampler)
quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
trainer = lightning.Trainer(
    max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", **dict.fromkeys(quiet, False)
)
module = Recorder()
trainer.fit(module)
with open(f"{sys.argv[2]}/{trainer.global_rank}.json", "w") as file:
    json.dump(module.seen, file)
"""


def test_lightning_with_its_defaults_draws_all_of_an_epoch(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    script = tmp_path / "trainer.py"
    script.write_text(LIGHTNING)
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    command = [sys.executable, str(script), json.dumps(WEIGHTS.tolist()), str(tmp_path)]
    ended = subprocess.run(
        command,
        env={**kept, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LONGEST,
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    for rank in range(2):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert seen == [reference(epoch)[rank::2] for epoch in range(2)]


def test_announced_processes_without_a_group_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    sampler = ManifestSampler(WEIGHTS, seed=7)
    assert len(sampler) == 32
    with pytest.raises(KdbiasError, match=r"RANK=1 and WORLD_SIZE=2 .* in no group"):
        list(sampler)
    assert list(ManifestSampler(WEIGHTS, seed=7, rank=1, world_size=2)) == reference(0)[1::2]
    assert list(ManifestSampler(WEIGHTS, seed=7, rank=0, world_size=1)) == reference(0)
