"""From tissue to grey value: the signal equations and the constants of 3 T.

All times in ms, concentrations in mmol/l (mM), signals as a fraction of the full magnetisation of water.
"""

from dataclasses import dataclass
from math import exp

from mrtutor.vocabulary import Modality


@dataclass(frozen=True)
class Tissue:
    """Relaxation of one tissue at 3 T.

    Attributes:
        t1, t2: relaxation times in ms.
        pd: proton density, water = 1.
        gd: concentration of gadolinium in mM after injection; 0 behind an intact blood-brain barrier.
        source: where the numbers come from.
    """

    t1: float
    t2: float
    pd: float
    gd: float
    source: str


_WANSAPURA = (
    "T1, T2: Wansapura et al., J Magn Reson Imaging 9:531-538 (1999); "
    "water content rounded from Tofts (ed.), Quantitative MRI of the Brain (2003), ch. 4"
)
_RANGE = "our choice between normal tissue and CSF, so that the order of brightness agrees with two public cases"

TISSUES: dict[str, Tissue] = {
    "grey": Tissue(1331, 110, 0.82, 0.0, _WANSAPURA),
    "white": Tissue(832, 79.6, 0.70, 0.0, _WANSAPURA),
    "csf": Tissue(4000, 1500, 1.00, 0.0, "T1 about 4.3 s: Rooney et al., Magn Reson Med 57:308-318 (2007); T2: ours"),
    "oedema": Tissue(1600, 230, 0.87, 0.0, _RANGE),
    "solid": Tissue(1700, 210, 0.87, 0.0, _RANGE),
    "mismatch": Tissue(2800, 330, 0.94, 0.0, _RANGE),
    "enhancing": Tissue(1500, 130, 0.85, 0.25, _RANGE),
    "necrosis": Tissue(2600, 350, 0.95, 0.03, _RANGE),
    "vessel": Tissue(
        1650, 90, 0.80, 0.6, "T1 of blood: Lu et al., Magn Reson Med 52:679-682 (2004); flow left out: ours"
    ),
}

RELAXIVITY = 5.0  # per mM and s: gadobutrol in plasma at 3 T, Szomolanyi et al., Invest Radiol 54:559-564 (2019)


@dataclass(frozen=True)
class Sequence:
    """One pulse sequence: times in ms; ``ti`` None is a spin echo, else an inversion recovery."""

    tr: float
    te: float
    ti: float | None = None
    contrast_agent: bool = False


SEQUENCES: dict[Modality, Sequence] = {
    # FLAIR: CSF is not nulled quite; the real cases of our tests show it at about a fifth of white matter too.
    Modality.FLAIR: Sequence(tr=9000, te=90, ti=2500),
    # T1: 3 T protocols, the real cases of our tests among them, weight T1 by an inversion pulse (Mugler and Brookeman,
    # Magn Reson Med 15:152-157, 1990): a plain spin echo shows too little contrast of grey and white matter.
    Modality.T1: Sequence(tr=2000, te=8, ti=1000),
    Modality.T1GD: Sequence(tr=2000, te=8, ti=1000, contrast_agent=True),
    Modality.T2: Sequence(tr=6000, te=80),
}


def spin_echo(t1: float, t2: float, pd: float, tr: float, te: float) -> float:
    """S = PD (1 - exp(-TR/T1)) exp(-TE/T2)."""
    return pd * (1 - exp(-tr / t1)) * exp(-te / t2)


def inversion_recovery(t1: float, t2: float, pd: float, tr: float, te: float, ti: float) -> float:
    """S = PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2), the magnitude image."""
    return pd * abs(1 - 2 * exp(-ti / t1) + exp(-tr / t1)) * exp(-te / t2)


def gadolinium_t1(t1: float, concentration: float, relaxivity: float = RELAXIVITY) -> float:
    """1/T1' = 1/T1 + r1 C: T1 in ms with ``concentration`` mM of an agent of ``relaxivity`` per mM and s."""
    return 1 / (1 / t1 + relaxivity * concentration / 1000)


def ideal_signal(tissue: str, modality: Modality | str) -> float:
    """Signal of a pure tissue without bias field, texture or noise.

    Args:
        tissue: a key of `TISSUES`.
        modality: a `Modality` or an alias of one.

    Raises:
        ValueError: unknown tissue or modality; the message lists the choices.
    """
    if tissue not in TISSUES:
        raise ValueError(f"Unknown tissue {tissue!r}: expected one of {', '.join(TISSUES)}.")
    k, s = TISSUES[tissue], SEQUENCES[Modality(modality)]
    t1 = gadolinium_t1(k.t1, k.gd) if s.contrast_agent else k.t1
    if s.ti is None:
        return spin_echo(t1, k.t2, k.pd, s.tr, s.te)
    return inversion_recovery(t1, k.t2, k.pd, s.tr, s.te, s.ti)
