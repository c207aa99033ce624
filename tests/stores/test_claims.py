"""Two processes and one folder in a store; writers that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from kdbias.errors import KdbiasError, MachineError
from kdbias.tables import claims
from kdbias.tables.claims import Claim, claimed
from kdbias.tables.documents import parse_json, read_json
from kdbias.tables.folder_lock import LOCK
from kdbias.tables.mirrors import in_use
from kdbias.tables.run_record import Run
from tests.stages import EMBED

BEGIN = """
import sys
from kdbias.tables.run_record import Run, Stage
run = Run.open(sys.argv[1], Stage("embed", files=("part-*", "big-*")), {"a": 1}, {})
"""
WAIT = (
    BEGIN
    + """
import time
print("open", flush=True)
time.sleep(60)
"""
)
WRITE = (
    BEGIN
    + """
from kdbias.tables.documents import write_json
from kdbias.tables.files import atomic_path, remove
print("open", flush=True)
for round in range(1000):
    write_json(run.out / f"part-{round % 5}", {"round": round, "text": "x" * 1000 * round})
    with atomic_path(run.out / "big-0") as temporary:
        temporary.write_bytes(bytes([round % 256]) * (6 << 20))
    if round % 7 == 6:
        remove(run.out / "part-0")
"""
)


def start(code: str, uri: str, scratch: object) -> subprocess.Popen:
    """Another process, as if on another machine but for the ids of processes."""
    environment = os.environ | {"KDBIAS_SCRATCH": str(scratch)}
    return subprocess.Popen(
        [sys.executable, "-c", code, uri], stdout=subprocess.PIPE, env=environment, text=True
    )


def test_the_second_of_two_processes_is_refused_until_the_first_is_gone(bucket, tmp_path):
    uri = bucket.uri("emb")
    other = start(WAIT, uri, tmp_path / "other")
    try:
        assert other.stdout.readline() == "open\n"
        expected = rf"^{uri} is in use by another kdbias process \(pid {other.pid} on .* ago\): wait for it"
        with pytest.raises(KdbiasError, match=expected):
            Run.open(uri, EMBED, {"a": 1}, {})
        assert claimed(uri)
        assert bucket.names("emb") == [
            bucket.names("emb")[0],
            "run.json",
        ]  # its claim alone beside the record
    finally:
        other.kill()
        other.wait()
    run = Run.open(uri, EMBED, {"a": 1}, {})  # at once: nobody has its number on this machine any more
    assert run.state == "resumed"
    assert in_use(run.out)
    run.finish({}, 0.0)
    assert bucket.names("emb") == ["run.json"]
    assert not in_use(run.out)


def of_another_machine(bucket, folder: str) -> None:
    content = {"pid": 1, "host": "elsewhere", "machine": "another"}
    bucket.write(f"{folder}/{LOCK}/abc", json.dumps(content).encode())


def test_a_claim_of_another_machine_counts_for_ten_minutes(bucket, monkeypatch):
    of_another_machine(bucket, "emb")
    with pytest.raises(KdbiasError, match=r"pid 1 on elsewhere, last heard of 1 s ago"):
        Claim(bucket.uri("emb"))
    assert bucket.names("emb") == [f"{LOCK}/abc"]  # its own was taken back
    time.sleep(2.1)  # times of objects are whole seconds
    monkeypatch.setattr(claims, "_DEAD", 1.0)
    taken = Claim(bucket.uri("emb"))
    assert len(bucket.names("emb")) == 1
    taken.release()
    taken.release()
    assert bucket.names("emb") == []


def test_a_claim_is_renewed_and_whoever_lost_his_changes_nothing_more(bucket, monkeypatch):
    monkeypatch.setattr(claims, "_RENEW", 0.05)
    run = Run.open(bucket.uri("emb"), EMBED, {}, {})
    claim = run._lock.claim
    first = claim._renewed
    deadline = time.monotonic() + 30
    while claim._renewed == first and time.monotonic() < deadline:
        time.sleep(0.05)
    assert claim._renewed > first
    with claim._looking:
        bucket.files.delete_dir_contents(f"{bucket.name}/emb/{LOCK}")  # as who takes it over does
        of_another_machine(bucket, "emb")
    while not claim._lost and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(MachineError, match="was taken over by another kdbias process"):
        run.finish({}, 0.0)
    assert parse_json(bucket.read("emb/run.json"), "")["status"] == "running"


def test_who_slept_looks_at_his_claim_first(bucket, monkeypatch):
    claim = Claim(bucket.uri("emb"))
    claim.require()
    claim._renewed -= claims._DEAD
    claim.require()  # nobody came
    assert time.time() - claim._renewed < 60
    claim._renewed -= claims._DEAD
    of_another_machine(bucket, "emb")  # who came before the claim was found dead
    with pytest.raises(MachineError, match="was taken over"):
        claim.require()
    claim.release()
    bucket.files.delete_dir_contents(f"{bucket.name}/emb/{LOCK}")
    claim = Claim(bucket.uri("emb"))
    claim._renewed -= claims._DEAD
    bucket.files.delete_dir_contents(f"{bucket.name}/emb/{LOCK}")
    with pytest.raises(MachineError, match="was taken over"):
        claim.require()
    claim.release()


def test_whatever_kills_a_writer_nothing_is_half_there(bucket, tmp_path):
    kills, uri = 6, bucket.uri("emb")
    for number in range(kills):
        writer = start(WRITE, uri, tmp_path / f"machine-{number}")
        assert writer.stdout.readline() == "open\n"
        time.sleep(random.Random(number).uniform(0.0, 0.6))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        for name in bucket.names("emb"):
            content = bucket.read(f"emb/{name}")
            if name.startswith("big"):
                assert content == content[:1] * (6 << 20)
            elif LOCK not in name:
                (tmp_path / "read.json").write_bytes(content)
                read_json(tmp_path / "read.json")  # refuses what is not as it was written
    run = Run.open(uri, EMBED, {"a": 1}, {})
    assert run.state == "resumed"
    run.finish({}, 0.0)
    assert not [name for name in bucket.names("emb") if LOCK in name]
