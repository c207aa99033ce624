"""A file that cannot be written is named as it was asked for, and nothing of it is left."""

import errno
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.errors import UnwritableError
from kdbias.tables.files import atomic_path


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
