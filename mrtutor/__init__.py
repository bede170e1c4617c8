"""Controllable text-to-image synthesis of multi-modality MR images, as a course that runs on simulated patients.

    from mrtutor import IDH, load_pretrained
    pipe = load_pretrained("laptop")
    sequence = pipe.sequence(IDH.WILD, structure)  # dict of four (256, 256) synthetic slices in [0, 1]

The names below are the face of the package; what needs torch is imported on first use, so `import mrtutor` is fast.
Source: Kim et al., *Controllable Text-to-Image Synthesis for Multi-Modality MR Images*, WACV 2024.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mrtutor.vocabulary import IDH, Modality, prompt

if TYPE_CHECKING:
    from mrtutor.data.cohort import Cohort
    from mrtutor.sampling.pipeline import MRPipeline
    from mrtutor.sampling.pretrained import load_pretrained

__version__ = "0.1.0"
__all__ = ["IDH", "Cohort", "MRPipeline", "Modality", "__version__", "load_pretrained", "prompt"]

_LAZY = {
    "Cohort": "mrtutor.data.cohort",
    "MRPipeline": "mrtutor.sampling.pipeline",
    "load_pretrained": "mrtutor.sampling.pretrained",
}


def __getattr__(name: str) -> Any:
    """Import a name of the face on first use (PEP 562).

    Raises:
        BrokenTorchvisionError: an installed torchvision does not work with torch.
        AttributeError: no such name.
    """
    if name not in _LAZY:
        raise AttributeError(f"module 'mrtutor' has no attribute {name!r}; its face is {', '.join(__all__)}")
    from mrtutor._environment import check_torchvision

    check_torchvision()
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))
