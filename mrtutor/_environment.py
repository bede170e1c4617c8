"""A look at what is installed, before a library fails with a riddle.

The course needs no torchvision. diffusers and transformers use one where they find it, though, and one made for
another torch fails while they import it ("operator torchvision::nms does not exist"), far from the cause.
"""

from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


class BrokenTorchvisionError(ImportError):
    """An installed torchvision cannot be imported."""


@cache
def check_torchvision() -> None:
    """Pass where torchvision is absent or works; nothing is imported where it is absent.

    Raises:
        BrokenTorchvisionError: it is installed and fails on import; the message says what was found and what to do.
    """
    spec = find_spec("torchvision")
    if spec is None:
        return
    try:
        import_module("torchvision")
    except Exception as error:  # a mismatched build raises RuntimeError, OSError, AttributeError or ImportError
        raise BrokenTorchvisionError(
            f"Found torchvision {_version('torchvision')} in {spec.origin}, which does not work with torch "
            f"{_version('torch')} ({type(error).__name__}: {error}). mrtutor needs no torchvision, but diffusers and "
            "transformers fail on a broken one. Remove it with `pip uninstall torchvision`, or install the "
            "torchvision that was made for your torch."
        ) from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
