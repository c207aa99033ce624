"""Files of which one line says enough: networks of other programs, images, pages and scripts of kdbias."""

from pathlib import Path
from typing import Any

from kdbias.errors import KdbiasError, first_line
from kdbias.inspection.mark import is_page

_HEAD = 4096  # bytes that are read to tell what a text is


def network(path: Path, rows: int) -> dict[str, Any]:
    """A network in another program's format; it is not loaded."""
    kind = path.suffix.lower()[1:]
    if kind == "xml" and "<net" not in _head(path):
        raise KdbiasError(f"{path} is XML, but no OpenVINO network (no <net> in it)")
    name, spec = ("ONNX", "onnx") if kind == "onnx" else ("OpenVINO", "openvino")
    size = path.stat().st_size
    side_car = path.with_suffix(".toml")
    side = f"preprocessing in {side_car.name}" if side_car.exists() else "no preprocessing file beside it"
    return {
        "summary": f"{name} network of {size:,} bytes, not loaded; {side}; as a teacher: {spec}:{path}",
    }


def image(path: Path, rows: int) -> dict[str, Any]:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            width, height = opened.size
            return {"summary": f"one {opened.format} image of {width} x {height} pixels, mode {opened.mode}"}
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = first_line(error)
        raise KdbiasError(f"{path}: not a readable image ({reason})") from None


def page(path: Path, rows: int) -> dict[str, Any]:
    if not is_page(path):
        raise KdbiasError(f"{path} is a page that kdbias did not write")
    size = path.stat().st_size
    return {"summary": f"page of kdbias report, {size / 2**20:.1f} MiB; open it in a browser"}


def commands(path: Path, rows: int) -> dict[str, Any]:
    lines = [line for line in _head(path).splitlines() if line.lstrip().startswith("kdbias ")]
    if not lines:
        raise KdbiasError(f"{path} is a script that calls no kdbias command")
    return {"summary": f"shell script of kdbias commands, the first: {lines[0].strip()[:80]}"}


def _head(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(_HEAD).decode("utf-8", "replace")
