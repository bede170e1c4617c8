"""Answers as a table: a CSV for each reader, a row for each question, and all of them in one frame."""

import csv
import io
from pathlib import Path
from typing import Any

import pandas as pd

from mrtutor.files import write_text
from mrtutor.study.questions import Test
from mrtutor.study.session import Session
from mrtutor.study.store import RESULTS, results_path

COLUMNS = (
    "reader", "simulated", "study", "cohort", "test", "question", "item", "modality", "truth", "said", "correct",
    "rating", "seconds", "answered_at", "pauses", "consented_at", "consent",
)  # fmt: skip


def rows(session: Session) -> list[dict[str, Any]]:
    """A row per question of both tests, also of those that were not answered (empty `said`)."""
    events = session.journal.events
    head, consent = events[0], next((e for e in events if e["kind"] == "consent"), {"text": "", "at": ""})
    given = {(answer["test"], answer["number"]): answer for answer in session.answers}
    common = {"reader": session.reader, "simulated": head["simulated"], "study": head["study"]}
    common |= {"cohort": session.study.source, "consented_at": consent["at"], "consent": consent["text"]}
    table = []
    for test in Test:
        pauses = sum(e["kind"] == "resume" and e["test"] == test for e in events)
        for question in session.questions[test]:
            answer = given.get((str(test), question.number), {})
            said, truth = answer.get("said", ""), str(question.truth)
            row = {"test": str(test), "question": question.number, "item": question.item, "truth": truth, "said": said}
            row |= {"modality": str(question.modality or ""), "correct": int(said == truth) if said else ""}
            row |= {"rating": answer.get("rating", ""), "seconds": answer.get("seconds", "")}
            table.append(common | row | {"answered_at": answer.get("at", ""), "pauses": pauses})
    return table


def to_csv(session: Session) -> str:
    """The rows as CSV text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(session))
    return text.getvalue()


def save_csv(session: Session, folder: str | Path) -> Path:
    """Write the reader's CSV into the study's folder, all or nothing."""
    path = results_path(folder, session.reader)
    write_text(path, to_csv(session))
    return path


def read_results(folder: str | Path) -> pd.DataFrame:
    """Every reader's rows, columns `COLUMNS`; where nothing was answered, `said` is "" and the numbers are NaN.

    Raises:
        FileNotFoundError: nobody has finished yet.
        ValueError: a file without the columns of a result, or results of more than one study.
    """
    files = sorted((Path(folder) / RESULTS).glob("*.csv"))
    if not files:
        raise FileNotFoundError(f"No results in {Path(folder) / RESULTS}: they appear when a reader has finished.")
    tables = []
    for path in files:
        words = dict.fromkeys(("reader", "study", "said"), str)
        table = pd.read_csv(path, dtype=words, keep_default_na=False, na_values={
            name: [""] for name in ("correct", "rating", "seconds")
        })  # fmt: skip
        if missing := [name for name in COLUMNS if name not in table]:
            raise ValueError(f"{path.name} lacks the column(s) {', '.join(missing)}: restore the file.")
        tables.append(table.assign(file=path.name))
    frame = pd.concat(tables, ignore_index=True)
    studies = frame.groupby("study")["file"].unique()
    if len(studies) > 1:
        found = "; ".join(f"{study} in {', '.join(names)}" for study, names in studies.items())
        raise ValueError(
            f"Expected results of one study in {Path(folder) / RESULTS}, got {found}: their items are different "
            "pictures, so move the files of all studies but one away."
        )
    return frame.drop(columns="file")
