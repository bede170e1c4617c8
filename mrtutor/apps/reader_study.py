"""The reader study of §4.5: can people tell a synthetic picture from a real one, and read the IDH type from it?

Two tests of 20 questions in 30 minutes each. "pairs" shows a slice of the cohort and a synthetic slice of the same
modality, and asks which one is synthetic. "sequences" shows a synthetic sequence, asks for a rating from 0 to 5 and for
the IDH type. `python -m mrtutor.apps.reader_study prepare` makes a study folder, `... results` reads it:

    study.json, pictures.npz   settings and pictures: all that the page reads
    sessions/                  one file per reader, one line per event
    leader/                    truth.csv, about.json, results.csv, drawn sequences: for the study leader alone

The page never opens `leader/`, so no reader can download the truth. Order and sides are random and follow from no code.

Axes: n questions of a test; one picture more is for practice. Pictures are (256, 256) uint8.
"""

import json
import os
import random
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cv2
import numpy as np
import pandas as pd
import typer
from scipy.ndimage import binary_erosion, binary_fill_holes

from mrtutor.files import atomic_path, locked, sha256, write_json, write_text
from mrtutor.vocabulary import IDH, Modality

if TYPE_CHECKING:
    from mrtutor.data.cohort import Cohort
    from mrtutor.pipeline.pipeline import MRPipeline

TESTS = PAIRS, SEQUENCES = "pairs", "sequences"
SIDES = ("left", "right")
RATINGS = range(6)  # 0 (not at all like acquired MR pictures) to 5 (just like them), §4.5
CHANNEL = {modality: channel for channel, modality in enumerate(Modality)}
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,22}[a-z0-9])?")
TISSUE = 20  # grey value above the noise of the background and below all tissue
RIM = 3  # pixels: the cohort is cut by a mask at the brain's edge, and the autoencoder blurs that cut
FLOOR = 8  # darkest grey value inside the brain


def clean(image: np.ndarray) -> np.ndarray:
    """A slice (256, 256) uint8 as a reader sees it: background exactly 0, brain from `FLOOR`, without its rim.

    One rule for all pictures: a background of 0.4, a sharp edge of the brain or a darker ventricle would tell
    synthetic ones from the cohort's without a look at the anatomy.
    """
    bright = cv2.morphologyEx((image > TISSUE).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    if count == 1:  # background only
        return np.zeros_like(image)
    largest = parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    support = binary_erosion(binary_fill_holes(largest), iterations=RIM)
    return np.where(support, np.maximum(image, FLOOR), 0).astype(np.uint8)


def served(image: np.ndarray) -> bytes:
    """The PNG that a reader gets of a slice (256, 256) uint8: no metadata, and as many bytes as any other.

    It is not compressed: grain compresses worse than smooth tissue, so a compressed size would tell the two apart.
    """
    return cv2.imencode(".png", clean(image), [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()


@dataclass(frozen=True, eq=False)
class Study:
    """Settings and pictures, without the truth. Made by `create_study`, read by `Study.open`.

    Attributes:
        folder, questions, minutes: where; n of each test; time for each test.
        source: what the cohort is, in words for the reader.
        modalities: of each pair, n + 1.
        pairs: (n + 1, 2, 256, 256) uint8, left and right; one slice of each is synthetic. The last is for practice.
        sequences: (n + 1, 4, 256, 256) uint8, synthetic. The last is for practice.
    """

    folder: Path
    questions: int
    minutes: float
    source: str
    modalities: list[str]
    pairs: np.ndarray
    sequences: np.ndarray

    @classmethod
    def open(cls, folder: str | Path) -> "Study":
        """Read a study (FileNotFoundError: none there; ValueError: damaged pictures)."""
        folder = Path(folder)
        if not (folder / "study.json").is_file():
            raise FileNotFoundError(f"No study.json in {folder}: `make reader-study` prepares a study.")
        settings = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        if sha256(folder / "pictures.npz") != settings.pop("sha256"):
            raise ValueError(f"{folder}/pictures.npz is not the file that study.json names: restore it from a backup.")
        with np.load(folder / "pictures.npz") as stored:
            return cls(folder=folder, pairs=stored["pairs"], sequences=stored["sequences"], **settings)


def create_study(
    folder: str | Path,
    sequences: np.ndarray,
    types: Sequence[IDH],
    slices: np.ndarray,
    modalities: Sequence[Modality],
    *,
    source: str = "the cohort",
    minutes: float = 30,
    about: dict[str, Any] | None = None,
) -> Study:
    """Write a study of n questions, and the truth into `leader/`; the same study is left as it is.

    ValueError: the folder holds sessions of another study.

    Args:
        sequences: (n + 1, 4, 256, 256) uint8, synthetic.
        types: IDH type that each sequence was asked for.
        slices: (n + 1, 256, 256) uint8 of the cohort, each shown with the slice of the sequence in its modality.
        about: provenance, for `leader/about.json`.
    """
    folder, leader, questions = Path(folder), Path(folder) / "leader", len(types) - 1
    settings = {"questions": questions, "minutes": minutes, "source": source, "modalities": list(modalities)}
    about = json.loads(json.dumps({**settings, **(about or {})}))  # as it is read back
    if (folder / "study.json").is_file() and json.loads((leader / "about.json").read_text()) == about:
        return Study.open(folder)
    if taken := list((folder / "sessions").glob("*.jsonl")):
        raise ValueError(f"{folder} holds {len(taken)} session(s) of another study: choose another folder.")
    places = [item % 2 for item in range(questions)]  # of the synthetic slice: half of them at the left
    random.SystemRandom().shuffle(places)
    synthetic = np.stack([four[CHANNEL[m]] for four, m in zip(sequences, modalities, strict=True)])
    pairs = np.stack([synthetic, slices], axis=1)
    swapped = np.flatnonzero(places)
    pairs[swapped] = pairs[swapped, ::-1]
    rows = [(PAIRS, item, SIDES[place], modalities[item]) for item, place in enumerate(places)]
    rows += [(SEQUENCES, item, types[item], "") for item in range(questions)]
    leader.mkdir(parents=True, exist_ok=True)
    leader.chmod(0o700)
    with atomic_path(leader / "truth.csv") as temporary:
        pd.DataFrame(rows, columns=["test", "item", "truth", "modality"]).to_csv(temporary, index=False)
    write_json(leader / "about.json", about)
    with atomic_path(folder / "pictures.npz") as temporary:
        np.savez_compressed(temporary, pairs=pairs, sequences=sequences)
    write_json(folder / "study.json", {**settings, "sha256": sha256(folder / "pictures.npz")})  # last: whole or none
    return Study.open(folder)


class Session:
    """One reader's way through a study. Begun with `start`, continued with `resume`.

    Every event is a line of the reader's file, and the state follows from the lines: going on after a kill is reading
    them again. The clock of a test runs while its questions are shown.

    Attributes:
        head: the first line: the reader's name, the code to go on with, the order of the items.
        answers: the lines that are answers.
        test: "pairs" or "sequences": the test that runs or comes next.
        number: of the open question, from 1, in this reader's order.
        step: what is waited for: "consent"; a reader who is "ready" for the test; an answer ("asking"); a reader who
            comes back in the middle of a test ("paused"); nothing ("done").
    """

    def __init__(self, study: Study, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.study, self.path, self._clock = study, path, clock
        self.head: dict[str, Any] = {}
        self.answers: list[dict[str, Any]] = []
        self.test, self.number = PAIRS, 1
        self.step: Literal["consent", "ready", "asking", "paused", "done"] = "consent"
        with locked(path.with_suffix(".lock")):
            data = path.read_bytes()
            self._size = data.rfind(b"\n") + 1
            os.truncate(path, self._size)  # half a line, left by a kill
        for number, line in enumerate(data[: self._size].splitlines(), 1):
            try:
                self._apply(json.loads(line))
            except ValueError as error:
                raise ValueError(f"Line {number} of {path.name} is damaged: restore the file.") from error
        if self.step == "asking":
            self.step = "paused"

    @classmethod
    def start(cls, study: Study, name: str, clock: Callable[[], float] = time.monotonic) -> "Session":
        """Begin a session and reserve its name, 1 to 24 of a-z, 0-9 and inner hyphens (ValueError: it is taken)."""
        if not NAME.fullmatch(name):
            raise ValueError(f"Expected 1 to 24 lower-case letters, digits and inner hyphens, got {name[:40]!r}.")
        order = {test: random.SystemRandom().sample(range(study.questions), study.questions) for test in TESTS}
        head = {"event": "start", "reader": name, "code": f"{name}.{secrets.token_hex(3)}", "order": order}
        path = study.folder / f"sessions/reader-{name}.jsonl"
        with locked(path.with_suffix(".lock")):
            if path.exists():
                raise ValueError(f"The code {name!r} is taken: choose another, or type your whole code with its end.")
            write_text(path, json.dumps(head) + "\n")
        return cls(study, path, clock)

    @classmethod
    def resume(cls, study: Study, code: str, clock: Callable[[], float] = time.monotonic) -> "Session":
        """Go on with the session of a whole `code` (ValueError: there is none)."""
        name = code.partition(".")[0]
        path = study.folder / f"sessions/reader-{name}.jsonl"
        session = cls(study, path, clock) if NAME.fullmatch(name) and path.is_file() else None
        if session is None or session.head["code"] != code:
            raise ValueError("No session has this code: check the six characters after the point.")
        return session

    @property
    def item(self) -> int:
        """Place of the open question in the study, from 0."""
        return self.head["order"][self.test][self.number - 1]

    @property
    def seconds_left(self) -> float:
        """Time left in this test, seconds, never below 0."""
        used = sum(answer["seconds"] for answer in self.answers if answer["test"] == self.test)
        if self.step == "asking":
            used += self._clock() - self._shown
        return max(0.0, 60 * self.study.minutes - used)

    def advance(self) -> None:
        """Agree to take part, begin the test, or go on after a pause (ValueError: none of them is waited for)."""
        if self.step not in ("consent", "ready", "paused"):
            raise ValueError(f"Expected a session that waits for its reader, got one that is {self.step}.")
        self._record({"event": self.step, "test": self.test})

    def answer(self, number: int, said: str, rating: int | None = None) -> None:
        """Answer question `number`: "left" or "right" is synthetic; or "mutant" or "wild", with a rating of 0 to 5.

        ValueError: another question is open, the time is up, or no such answer.
        """
        if self.tick():
            raise ValueError("The time of this test is up: an answer after it does not count.")
        if self.step != "asking" or number != self.number:
            raise ValueError(f"Question {number} is not open any more: nothing was changed.")
        choices, ratings = (SIDES, (None,)) if self.test == PAIRS else (tuple(IDH), RATINGS)
        if said not in choices or rating not in ratings:
            raise ValueError(f"Expected one of {', '.join(choices)} and of {ratings}, got {said!r} and {rating!r}.")
        event = {"event": "answer", "test": self.test, "number": number, "item": self.item, "said": said}
        self._record({**event, "rating": rating, "seconds": round(self._clock() - self._shown, 3)})

    def tick(self) -> bool:
        """End a test whose time is up; its open questions stay unanswered. True if one ended."""
        if self.step != "asking" or self.seconds_left > 0:
            return False
        self._record({"event": "timeout", "test": self.test})
        return True

    def _record(self, event: dict[str, Any]) -> None:
        """Write an event to the disk, then apply it; refuse when another window has written since."""
        event = {**event, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        with locked(self.path.with_suffix(".lock")), open(self.path, "ab") as file:
            if file.tell() != self._size:
                raise ValueError("This session was continued in another window: close this one and go on there.")
            self._size += file.write((json.dumps(event) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        self._shown = self._clock()
        kind = event["event"]
        if kind == "start":
            self.head = event
        elif kind == "consent":
            self.step = "ready"
        elif kind in ("ready", "paused"):
            self.step = "asking"
        elif kind == "answer":
            self.answers.append(event)
            self.number += 1
        if kind == "timeout" or self.number > self.study.questions:
            self.step = "done" if self.test == SEQUENCES else "ready"
            self.test, self.number = SEQUENCES, 1


def read_results(folder: str | Path) -> pd.DataFrame:
    """All answers with the truth, for the study leader: one row per reader and question.

    Columns: reader, test, number, item, modality ("" of a sequence), truth, said, rating, seconds, at, correct (0, 1).
    A question without an answer has "" or NaN in the last five. FileNotFoundError: nobody has begun, or no truth.
    """
    study = Study.open(folder)
    truth = pd.read_csv(study.folder / "leader/truth.csv").set_index(["test", "item"]).to_dict("index")
    rows = []
    for path in sorted((study.folder / "sessions").glob("*.jsonl")):
        session = Session(study, path)
        given = {(answer["test"], answer["item"]): answer for answer in session.answers}
        for test, order in session.head["order"].items():
            for number, item in enumerate(order, 1):
                row = {"reader": session.head["reader"], "test": test, "number": number, "item": item}
                rows.append({**row, **truth[test, item], **given.get((test, item), {})})
    if not rows:
        raise FileNotFoundError(f"No session in {folder}: there are results when a reader has begun.")
    columns = ["reader", "test", "number", "item", "modality", "truth", "said", "rating", "seconds", "at"]
    results = pd.DataFrame(rows, columns=columns).astype({"rating": float, "seconds": float})
    results["correct"] = (results["said"] == results["truth"]).astype(float).where(results["said"].notna())
    return results.fillna({"modality": "", "said": "", "at": ""})


def choose_partners(cohort: "Cohort", rows: Sequence[int], seed: int = 0) -> list[tuple[int, Modality]]:
    """For each row a slice of another test patient, simulated only if the row is, of the same type if there is one.

    Modalities are balanced; a slice (row, modality) comes again only when all have been shown. ValueError: one patient.
    """
    rng = random.Random(seed)
    table, partners, shown = cohort.table, [], Counter()
    for row in rows:
        own = table.iloc[row]
        others = table.iloc[cohort.rows("test", tumour=True, simulated=bool(own["source"] == "simulated"))]
        others = others[others["patient"] != own["patient"]]
        alike = others[others["idh"] == own["idh"]]
        candidates = (others if alike.empty else alike)["row"]
        slices = [(int(other), m) for other in candidates for m in Modality if cohort.available[other, CHANNEL[m]]]
        if not slices:
            raise ValueError("Expected slices of two test patients or more, got one patient: take a larger cohort.")
        rng.shuffle(slices)
        partners.append(min(slices, key=lambda choice: (shown[choice[1]], shown[choice])))
        shown.update([partners[-1], partners[-1][1]])
    return partners


def prepare_study(
    folder: str | Path,
    pipe: "MRPipeline",
    cohort: "Cohort",
    *,
    questions: int = 20,
    minutes: float = 30,
    seed: int = 0,
) -> Study:
    """Draw what is missing and write the study; nothing is drawn twice, also after Ctrl-C.

    Each sequence is drawn from the edge map and the type of a test patient's slice, half of them mutant; the seed is of
    slices and noise. ValueError: too few test patients; another study in the folder.
    """
    from mrtutor.pipeline.draw import DrawSpec, draw_sets

    spec = DrawSpec(questions + 1, seed=seed, balanced=True)
    drawn = draw_sets(spec, Path(folder) / "leader/drawn", pipe, cohort)
    rows, modalities = zip(*choose_partners(cohort, drawn.table["row"], seed), strict=True)
    slices = np.stack([cohort.images[row, CHANNEL[modality]] for row, modality in zip(rows, modalities, strict=True)])
    kinds = {"simulated" if source == "simulated" else "real" for source in cohort.table["source"].iloc[list(rows)]}
    words = {"source": f"a cohort of {' and '.join(sorted(kinds))} patients", "minutes": minutes, "about": drawn.about}
    return create_study(folder, np.asarray(drawn.images), drawn.table["idh"], slices, modalities, **words)


app = typer.Typer(help="The reader study.", add_completion=False, pretty_exceptions_enable=False)
Out = Annotated[Path, typer.Option(help="Folder of the study.")]


@app.command()
def prepare(
    out: Out = Path("outputs/reader_study"),
    weights: Annotated[str, typer.Option(help="Name or folder of the weights.")] = "laptop",
    cohort: Annotated[Path | None, typer.Option(help="Folder of a prepared cohort; default the examples.")] = None,
    questions: Annotated[int, typer.Option(min=1, help="Of each of the two tests.")] = 20,
    minutes: Annotated[float, typer.Option(min=0.1, max=600, help="For each of the two tests.")] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Of slices and noise.")] = 0,
) -> None:
    """Draw the pictures and write a study."""
    from mrtutor.data.cohort import Cohort
    from mrtutor.pipeline.weights import load_pretrained

    patients = Cohort.open(cohort) if cohort else Cohort.examples()
    study = prepare_study(out, load_pretrained(weights), patients, questions=questions, minutes=minutes, seed=seed)
    print(f"Ready in {out}: {study.questions} questions and {study.minutes:g} minutes a test, with {study.source}.")
    print(f"Keep {out}/leader from the readers: the truth is there.")


@app.command()
def results(out: Out = Path("outputs/reader_study")) -> None:
    """Write all answers with the truth to leader/results.csv, and print each reader's means."""
    table = read_results(out)
    table.to_csv(out / "leader/results.csv", index=False)
    print(table.groupby(["reader", "test"])[["correct", "rating", "seconds"]].agg(["mean", "count"]).round(3))
    print(f"All answers with the truth: {out}/leader/results.csv")


if __name__ == "__main__":
    try:
        app()
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
