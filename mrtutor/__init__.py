"""Controllable text-to-image synthesis of multi-modality MR images, as a course.

    from mrtutor import Cohort, load_pretrained, show
    pipe, cohort = load_pretrained("laptop"), Cohort.examples()
    sequence = pipe.sequence("wild", cohort.structure(0, "T1Gd"))  # {modality: (256, 256) in [0, 1]}
    show(sequence)

What needs torch is imported on first use, so `import mrtutor` is fast.
Source: Kim et al., *Controllable Text-to-Image Synthesis for Multi-Modality MR Images*, WACV 2024.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mrtutor.vocabulary import IDH, Findings, Modality, sentence

# Threads that wait for others sleep instead of spinning. Beside another busy process, spinning threads take the core
# from the very thread they wait for (`tests/benchmarks/bench.py threads`). OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from mrtutor.data.cohort import Cohort
    from mrtutor.pipeline.pipeline import MRPipeline
    from mrtutor.pipeline.weights import load_pretrained
    from mrtutor.plot import sheet, show

__version__ = "0.2.0"
_LAZY = {
    "Cohort": "mrtutor.data.cohort",
    "MRPipeline": "mrtutor.pipeline.pipeline",
    "load_pretrained": "mrtutor.pipeline.weights",
    "sheet": "mrtutor.plot",
    "show": "mrtutor.plot",
}
__all__ = ["IDH", "Cohort", "Findings", "MRPipeline", "Modality", "__version__"]
__all__ += ["load_pretrained", "sentence", "sheet", "show"]


def __getattr__(name: str) -> Any:
    """Import a name on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'mrtutor' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
