"""A hard exit after a rename, and the same command again: the same output as of a run that nothing broke."""

import json

import pytest

from tests.pinned.conftest import alone
from tests.pinned.kills import DIED, STAGES


@pytest.fixture(scope="module")
def tried(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    alone("kills", world, folder)
    return json.loads((folder / "kills.json").read_text())


@pytest.mark.timeout(900)  # some fifty processes one after another, on a machine that may be busy
def test_the_same_command_again_gives_the_same_output(tried):
    """One test for all stages, as one process tries them all."""
    for name in STAGES:
        whole, *broken = tried[name]
        assert whole["status"] == 0, name
        assert whole["renames"] >= 1, name
        assert broken, name
        for one in broken:
            assert one["killed"] == DIED, (name, one)
            assert one["again"] == 0, (name, one)
            assert not one["unlike"], (name, one)
