"""docs/faces.md, where the data are: a section typed as it stands prints what it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.typed import commands, unlike

TEXT = (Path(__file__).parents[1] / "docs" / "faces.md").read_text()


def blocks(section: str, language: str) -> str:
    """The blocks of a language in a section, one after another."""
    text = TEXT.partition(f"## {section}")[2].partition("\n## ")[0]
    return "".join(re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M))


@pytest.mark.skipif("KDBIAS_DATA" not in os.environ, reason="needs KDBIAS_DATA")
def test_persons_that_do_not_differ(tmp_path):
    subprocess.run([sys.executable, "-c", blocks("Persons", "python")], cwd=tmp_path, check=True, timeout=300)
    shown = blocks("Persons", "console")
    assert len(commands(shown)) == 7
    assert unlike(shown, tmp_path) == []
