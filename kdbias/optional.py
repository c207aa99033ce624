"""One place that imports optional libraries and says how to get a missing one."""

import importlib
from importlib import metadata
from importlib.util import find_spec
from types import ModuleType

from kdbias.errors import KdbiasError
from kdbias.progress import say

_FAISS_BUILDS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12", "faiss-gpu-cu11")


def require(module: str, extra: str | None = None, package: str | None = None, note: str = "") -> ModuleType:
    """Import an optional library.

    Args:
        module: dotted module name, for example ``"onnxruntime"``.
        extra: the kdbias extra that installs it, for example ``"onnx"``.
        package: the package's own name where it differs from the module's and no extra exists.
        note: what else there is to say after the line that installs it.

    Raises:
        KdbiasError: the library is missing or broken; the message holds the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name is not None and error.name.split(".")[0] == module.split(".")[0]
        command = f"pip install 'kdbias[{extra}]'" if extra else f"pip install {package or module}"
        reason = "is not installed" if missing else f"cannot be imported ({error})"
        raise KdbiasError(f"the library {module!r} {reason}; get it with: {command}{note}") from error


def faiss() -> ModuleType:
    """FAISS, whichever build of it is installed.

    Its builds own one module: of two in one environment the last one installed is used, if they work at all,
    and either's removal takes files of the other. That is said.

    Raises:
        KdbiasError: there is none, or it is broken; the message names the extras.
    """
    builds = [build for build in _FAISS_BUILDS if _is_installed(build)]
    note = " (or 'kdbias[gpu]', its build for CUDA on Linux)"
    if len(builds) > 1:
        mend = f"pip uninstall {' '.join(builds)}, then install one"
        say(f"warning: {' and '.join(builds)} share the module faiss and break each other: {mend}")
        note += f", after {mend.partition(',')[0]}"
    return require("faiss", extra="cpu", note=note)


def refuse_without_faiss() -> None:
    """`faiss`'s refusal, for a process that is not to import it."""
    if find_spec("faiss") is None:
        faiss()


def _is_installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True
