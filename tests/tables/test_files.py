"""A file that cannot be written is named as it was asked for, and nothing of it is left."""

import errno
import os
import socket
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.errors import KdbiasError, UnwritableError
from kdbias.tables.csv_file import read_csv
from kdbias.tables.documents import read_json
from kdbias.tables.files import atomic_path
from kdbias.tables.fingerprints import of_file
from kdbias.tables.parquet_file import read_table
from kdbias.tables.temporaries import clean_temporaries


def _read_only(temporary):
    raise OSError(errno.EROFS, "Read-only file system", str(temporary))


def _full(temporary):
    temporary.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28]")


def _arrow(temporary):
    pq.write_table(pa.table({"a": [1]}), temporary / "below a file that is not there")


@pytest.mark.parametrize(
    ("write", "code"), [(_read_only, errno.EROFS), (_full, errno.ENOSPC), (_arrow, errno.ENOENT)]
)
def test_the_error_names_the_target_and_never_the_temporary_file(tmp_path, write, code):
    target = tmp_path / "w.parquet"
    target.write_text("before")
    with pytest.raises(UnwritableError) as caught, atomic_path(target) as temporary:
        write(temporary)
    assert (caught.value.errno, caught.value.filename) == (code, str(target))
    assert caught.value.strerror == os.strerror(code)
    assert "kdbias-tmp" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.parquet"]
    assert target.read_text() == "before"


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "blocker").write_text("mine")
    with pytest.raises(UnwritableError, match="Not a directory"), atomic_path(tmp_path / "blocker" / "w"):
        pass


def test_an_input_that_cannot_be_read_meanwhile_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"), atomic_path(tmp_path / "w"):
        (tmp_path / "gone").read_text()
    assert list(tmp_path.iterdir()) == []


def test_temporaries_go_once_nobody_can_be_writing_them(tmp_path):
    host = "".join(c for c in socket.gethostname() if c.isalnum())[:16]
    dead = [f"w.parquet.{host}-{os.getpid()}-00000000.kdbias-tmp", f"w.parquet.{host}-999999999-0.kdbias-tmp"]
    old = tmp_path / "w.parquet.elsewhere-1-00000000.kdbias-tmp"
    kept = [tmp_path / "w.parquet.elsewhere-2-00000000.kdbias-tmp", tmp_path / f"v{dead[1][1:]}"]
    for path in (*(tmp_path / name for name in dead), old, *kept):
        path.write_text("half")
    os.utime(old, (0, time.time() - 90_000))
    with atomic_path(tmp_path / "w.parquet") as alive:
        alive.write_text("being written")
        assert clean_temporaries(tmp_path, "w.parquet") == 3
        assert sorted(tmp_path.iterdir()) == sorted([alive, *kept])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
@pytest.mark.parametrize("read", [read_json, read_csv, read_table, of_file])
def test_what_would_be_waited_for_is_refused(tmp_path, read):
    os.mkfifo(tmp_path / "f.parquet")
    with pytest.raises(KdbiasError, match="is a FIFO"):
        read(tmp_path / "f.parquet")
    with pytest.raises(KdbiasError, match="/dev/null is a device"):
        read("/dev/null")
    for output in (tmp_path / "f.parquet", "/dev/null", "http://b/w.parquet"):
        with pytest.raises(KdbiasError, match=r"is a (FIFO|dev)|cannot be written"), atomic_path(output):
            pass
