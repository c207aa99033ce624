"""A real S3 server on this machine, and a bucket of it for each test."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pyarrow import fs

from kdbias.tables import stores

moto = pytest.importorskip("moto.server", reason="needs moto[server], an S3 server for tests")


@dataclass(frozen=True)
class Bucket:
    """A bucket: its URI, and a look into it that knows nothing of kdbias."""

    name: str
    files: fs.S3FileSystem

    def uri(self, key: str) -> str:
        """The URI of a place in it."""
        return f"s3://{self.name}/{key}"

    def names(self, below: str = "") -> list[str]:
        """Keys below one, sorted; markers of empty folders are none."""
        start = f"{self.name}/{below}".rstrip("/")
        infos = self.files.get_file_info(fs.FileSelector(start, recursive=True, allow_not_found=True))
        return sorted(i.path.removeprefix(f"{start}/") for i in infos if i.type is fs.FileType.File)

    def read(self, key: str) -> bytes:
        """The content of an object."""
        with self.files.open_input_file(f"{self.name}/{key}") as file:
            return file.read()

    def write(self, key: str, content: bytes) -> None:
        """Make an object."""
        with self.files.open_output_stream(f"{self.name}/{key}") as file:
            file.write(content)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Host and port of the server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(address, monkeypatch, tmp_path) -> Iterator[Bucket]:
    """An empty bucket, which the environment leads to, and an empty scratch folder."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("KDBIAS_SCRATCH", str(tmp_path / "scratch"))
    stores._connect.cache_clear()
    files = fs.S3FileSystem(endpoint_override=address, scheme="http", allow_bucket_creation=True)
    name = f"b-{uuid.uuid4().hex[:12]}"
    files.create_dir(name)
    yield Bucket(name, files)
    stores._connect.cache_clear()
