"""A saved network is the same network again; a file with code in it stays unopened."""

import pickle
from pathlib import Path

import pytest
import torch

from kdbias.errors import KdbiasError
from kdbias.networks import build_network
from kdbias.networks.saved import load_network, save_network

KWARGS = {"dim": 8, "channels": 1, "image_size": (16, 16)}


def test_a_loaded_network_computes_what_the_saved_one_did(tmp_path: Path) -> None:
    network = build_network("convnet", **KWARGS)
    images = torch.randn(5, 1, 16, 16)
    network(images)  # moves the batch-norm statistics away from their start
    network.eval()
    save_network(tmp_path / "student.pt", network, "convnet", KWARGS, {"size": [16, 16]}, {"seed": 3})

    for place in (tmp_path, tmp_path / "student.pt"):
        loaded, info = load_network(place)
        assert not loaded.training
        assert torch.equal(loaded(images), network(images))
        assert info["name"] == "convnet"
        assert info["preprocessing"] == {"size": [16, 16]}
        assert info["provenance"] == {"seed": 3}


class Malicious:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.proof,))


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "it_ran"
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))):
        save({"state": Malicious(proof)}, tmp_path / "student.pt")
        with pytest.raises(KdbiasError, match="not executed"):
            load_network(tmp_path)
    assert not proof.exists()


def test_absent_broken_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KdbiasError, match="no such file"):
        load_network(tmp_path / "student.pt")
    with pytest.raises(KdbiasError, match="finished"):
        load_network(tmp_path)
    (tmp_path / "student.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(KdbiasError, match="cannot be read"):
        load_network(tmp_path)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "student.pt")
    with pytest.raises(KdbiasError, match="no network that kdbias saved"):
        load_network(tmp_path)
