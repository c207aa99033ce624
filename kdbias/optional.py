"""One place that imports optional libraries and says how to get a missing one."""

import importlib
from types import ModuleType

from kdbias.errors import KdbiasError


def require(module: str, extra: str | None = None, package: str | None = None) -> ModuleType:
    """Import an optional library.

    Args:
        module: dotted module name, for example ``"onnxruntime"``.
        extra: the kdbias extra that installs it, for example ``"onnx"``.
        package: the package's own name where it differs from the module's and no extra exists.

    Raises:
        KdbiasError: the library is missing or broken; the message holds the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name is not None and error.name.split(".")[0] == module.split(".")[0]
        command = f"pip install 'kdbias[{extra}]'" if extra else f"pip install {package or module}"
        reason = "is not installed" if missing else f"cannot be imported ({error})"
        raise KdbiasError(f"the library {module!r} {reason}; get it with: {command}") from error
