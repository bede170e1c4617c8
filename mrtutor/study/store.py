"""The folder of a study.

study.json      settings and the checksum of the pictures; written last, so a study is there whole or not at all
pool.npz        the pictures
drawing/        finished sequences, while the pool is being drawn
sessions/       a journal for each reader
results/        a CSV for each reader
Files of a reader are named by a hash of the id: an id is never a path, on no file system.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mrtutor.files import sha256, write_json
from mrtutor.study.pool import Pool

SETTINGS, PICTURES, SESSIONS, RESULTS = "study.json", "pool.npz", "sessions", "results"
CONSENT = (
    "I take part of my own free will and may stop at any time. My answers, and the time I take for each, are stored on "
    "this computer under the code that I choose, not under my name. The pictures are synthetic or from {source}; "
    "none serves a diagnosis."
)


@dataclass(frozen=True)
class Study:
    """Settings of a study.

    Attributes:
        questions: of each test.
        minutes: for each test.
        seed: of order and sides.
        source: the cohort in words, from the pool.
        consent: what a reader agrees to.
        pictures: SHA-256 of pool.npz.
    """

    questions: int = 20
    minutes: float = 30.0
    seed: int = 0
    source: str = ""
    consent: str = CONSENT
    pictures: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be run (ValueError)."""
        if isinstance(self.questions, bool) or not isinstance(self.questions, int) or self.questions < 1:
            raise ValueError(f"Expected a whole number of questions from 1 up, got {self.questions!r}: try 20.")
        if isinstance(self.minutes, bool) or not isinstance(self.minutes, int | float) or not 0 < self.minutes <= 600:
            raise ValueError(f"Expected minutes above 0 and up to 600, got {self.minutes!r}: the paper has 30.")

    @property
    def fingerprint(self) -> str:
        """16 hex digits that differ between studies."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def create_study(folder: str | Path, pool: Pool, *, questions: int = 20, minutes: float = 30, seed: int = 0) -> Study:
    """Write pictures and settings into a folder.

    A study that is there already stays if it is the same; another one, or one that cannot be read, is replaced only
    while nobody has taken part.

    Raises:
        ValueError: bad settings, more questions than pictures, or sessions of another or a damaged study in the folder.
    """
    folder = Path(folder)
    if questions > len(pool):
        raise ValueError(f"Expected at most {len(pool)} questions, one for each picture, got {questions}.")
    wanted = Study(questions, float(minutes), seed, pool.source, CONSENT.format(source=pool.source))
    taken = sorted((folder / SESSIONS).glob("*.jsonl"))
    if (folder / SETTINGS).is_file():
        try:
            present, old = open_study(folder)
            if asdict(present) | {"pictures": ""} == asdict(wanted) and old.origin == pool.origin:
                return present
            of, advice = "with other settings or pictures", "choose another folder, or move this one away"
        except (ValueError, FileNotFoundError):
            of = f"whose {SETTINGS} or {PICTURES} is missing or damaged"
            advice = "restore both from a backup, or move the folder away and prepare again"
        if taken:
            raise ValueError(f"{folder} holds {len(taken)} session(s) of a study {of}: {advice}.")
    pool.save(folder / PICTURES)
    study = Study(**asdict(wanted) | {"pictures": sha256(folder / PICTURES)})
    write_json(folder / SETTINGS, asdict(study))
    return study


def open_study(folder: str | Path) -> tuple[Study, Pool]:
    """Settings and pictures of a folder.

    Raises:
        FileNotFoundError: no study there.
        ValueError: settings unreadable, or pictures that are not the study's.
    """
    folder = Path(folder)
    if not (folder / SETTINGS).is_file():
        raise FileNotFoundError(f"No {SETTINGS} in {folder}: run `make reader-study` once, it prepares a study.")
    try:
        study = Study(**json.loads((folder / SETTINGS).read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"Cannot read {folder / SETTINGS} ({error}): restore it, or prepare again.") from error
    pool = Pool.load(folder / PICTURES)
    if sha256(folder / PICTURES) != study.pictures:
        raise ValueError(f"{folder / PICTURES} is not the file that {SETTINGS} names: restore it, or prepare again.")
    return study, pool


def session_path(folder: str | Path, reader: str) -> Path:
    """Journal of a reader."""
    return Path(folder) / SESSIONS / f"{_hash(reader)}.jsonl"


def results_path(folder: str | Path, reader: str) -> Path:
    """CSV of a reader."""
    return Path(folder) / RESULTS / f"{_hash(reader)}.csv"


def _hash(reader: str) -> str:
    return hashlib.sha256(reader.encode()).hexdigest()[:20]
