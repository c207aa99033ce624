"""Manifests and images in stores other than the local disk, reached through pyarrow or fsspec."""

import io
import pickle
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.data.access import is_uri, join, names_in, open_input, parent_of, size_of
from kdbias.data.decode import UnreadableImage
from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    """URI of an empty folder, and a function that writes a file into it."""
    if request.param == "file":

        def write(name: str, content: bytes) -> None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)

        yield tmp_path.as_uri(), write
        return
    memory = fsspec.filesystem("memory")
    yield "memory://bucket/sets", lambda name, content: memory.pipe(f"/bucket/sets/{name}", content)
    memory.rm("/bucket", recursive=True)


def parquet_bytes(**columns) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


def test_manifest_with_paths(store):
    root, write = store
    base = root.removeprefix("file://")  # what the paths of a local manifest begin with
    write("list.csv", f"path,label\na/1.png,007\n{base}/a/2.png,008\n".encode())
    write("a/1.png", b"one")
    write("a/2.png", b"two")
    source = pickle.loads(pickle.dumps(open_data(f"{root}/list.csv")))
    assert source.ids.to_pylist() == ["a/1.png", "a/2.png"]
    assert source.labels.to_pylist() == ["007", "008"]
    assert [source.read(0), source.read(1)] == [b"one", b"two"]
    write("a/2.png", b"")
    assert source.read(1) == b""


def test_manifest_with_bytes_and_folder_of_parts(store):
    root, write = store
    write("p/0.parquet", parquet_bytes(sample_id=["a", "b", "c"], image=[b"0", b"1", b"2"]))
    write("p/1.PARQUET", parquet_bytes(sample_id=["d"], image=[b"3"]))
    whole = open_data(f"{root}/p")
    assert [whole.read(i) for i in (3, 0, 2)] == [b"3", b"0", b"2"]
    assert open_data(f"{root}/p/0.parquet").ids.to_pylist() == ["a", "b", "c"]


def test_local_manifest_of_stored_images(store, tmp_path_factory):
    root, write = store
    write("a/1.png", b"one")
    manifest = tmp_path_factory.mktemp("local") / "list.csv"
    manifest.write_text("path\na/1.png\n")
    assert open_data(manifest, root=root).read(0) == b"one"


def test_description_with_a_root_in_a_store(store, tmp_path_factory):
    root, write = store
    write("sub/m.parquet", parquet_bytes(sample_id=["a"], image=[b"0"]))
    file = tmp_path_factory.mktemp("local") / "x.toml"
    file.write_text(f'name = "x"\nsource = "sub/m.parquet"\nroot = "{root}"\n[expect]\nsamples = 1\n')
    assert open_data(file).read(0) == b"0"


@pytest.mark.parametrize("path", ["../x.png", "/etc/passwd", "other://bucket/x.png", "file:///etc/passwd"])
def test_paths_that_leave_the_root_are_refused(store, path):
    root, write = store
    write("list.csv", f"path\n{path}\n".encode())
    with pytest.raises(KdbiasError, match="leaves the data root"):
        open_data(f"{root}/list.csv")


def test_missing_files(store):
    root, write = store
    write("list.csv", b"path\ngone.png\n")
    with pytest.raises(UnreadableImage, match=r"cannot (read|open) 'gone.png'"):
        open_data(f"{root}/list.csv").read(0)
    with pytest.raises(KdbiasError, match=r"none.parquet: no such file or folder"):
        open_data(f"{root}/none.parquet")
    with pytest.raises(KdbiasError, match=r"^memory://bucket/x.tar: no such file or folder"):
        open_data("memory://bucket/x.tar")


def test_other_kinds_are_read_from_the_scratch_folder(store, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("KDBIAS_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
    root, write = store
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            member = tarfile.TarInfo("a.png")
            member.size = 3
            tar.addfile(member, io.BytesIO(b"one"))
        write("x.tar", file.getvalue())
    assert open_data(f"{root}/x.tar").read(0) == b"one"
    write("pictures/cat/1.png", b"two")
    assert open_data(f"{root}/pictures").read(0) == b"two"


def test_links_are_checked_below_a_file_uri_too(tmp_path, tmp_path_factory):
    secret = tmp_path_factory.mktemp("outside") / "secret.png"
    secret.write_bytes(b"secret")
    (tmp_path / "link.png").symlink_to(secret)
    (tmp_path / "list.csv").write_text("path\nlink.png\n")
    with pytest.raises(UnreadableImage, match="leaves the data root"):
        open_data((tmp_path / "list.csv").as_uri(), root=tmp_path.as_uri()).read(0)


def test_a_filesystem_of_pyarrow(tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/x.bin").write_bytes(b"content")
    uri = f"file://{tmp_path}/a b/x.bin"
    assert open_input(uri).read() == b"content"
    assert size_of(uri) == 7
    assert names_in(parent_of(uri)) == ["x.bin"]
    assert names_in(uri) is None


def test_unknown_store():
    with pytest.raises(KdbiasError, match="nosuch://x: cannot reach this store"):
        open_data("nosuch://x/list.csv")


def test_uris():
    assert is_uri("s3://b/x")
    assert not is_uri("/a/b")
    assert parent_of("s3://b/a/x.csv?region=eu") == "s3://b/a?region=eu"
    assert join("s3://b/a/?region=eu", "x.png") == "s3://b/a/x.png?region=eu"
