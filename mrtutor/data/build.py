"""Build a cohort folder, case by case, in parallel: resumable, flat in memory, safe to interrupt.

Each case becomes one compressed part in ``.parts``, under its final name only when whole. When all parts are there they
are joined; ``cohort.json`` is written last, so a folder without it is unfinished. A lock keeps a second build out.
"""

import hashlib
import json
import multiprocessing
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mrtutor.data.cohort import MANIFEST, PARTS, WORDS, Cohort, write_cohort
from mrtutor.data.prepare import PARAMETERS, prepare_subject
from mrtutor.files import atomic_path, locked
from mrtutor.vocabulary import Modality

if TYPE_CHECKING:
    from mrtutor.data.sources import Case

LOCK = ".lock"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class BuildReport:
    """What a build did."""

    cohort: Cohort
    skipped: list[list[str]]  # (case, reason) of each case left out
    notes: list[list[str]]  # (case, note) on how files were read
    already_complete: bool  # nothing was to be done


def build_cohort(
    cases: "Sequence[Case]", out: str | Path, settings: Mapping[str, Any], workers: int = 1, progress: bool = True
) -> BuildReport:
    """Prepare every case and write a cohort folder; after an interruption call it again, finished cases are kept.

    A case that cannot be prepared is skipped and listed with its reason, in the report and in ``cohort.json``.

    Args:
        settings: what the slices depend on besides the preparation (seed, noise, …), JSON-able; goes to the manifest.
        workers: processes; 1 works in this one.

    ValueError: `out` holds another cohort; two cases of one name; no case could be prepared. BlockingIOError: another
    process builds into `out`. RuntimeError: a worker was killed (memory): call again.
    """
    out, cases = Path(out), list(dict.fromkeys(cases))  # a folder may be given twice
    of_cases = {"cases": len(cases), "cases_sha256": _digest([case.key for case in cases])}
    settings = {**settings, "preparation": PARAMETERS, **of_cases}
    with locked(out / LOCK, wait_seconds=0):
        complete = (out / MANIFEST).exists()
        cohort = Cohort.open(out) if complete else _build(cases, out, settings, workers, progress)
        different = [key for key, value in settings.items() if cohort.manifest.get(key) != value]
        if different:
            raise ValueError(f"{out} holds a cohort with another {' and '.join(different)}: choose another --out.")
        shutil.rmtree(out / PARTS, ignore_errors=True)
    return BuildReport(cohort, cohort.manifest["skipped"], cohort.manifest["notes"], complete)


def _build(cases: "Sequence[Case]", out: Path, settings: dict[str, Any], workers: int, progress: bool) -> Cohort:
    parts = out / PARTS
    parts.mkdir(exist_ok=True)
    for leftover in (*out.glob(".tmp-*"), *parts.glob(".tmp-*")):  # of a run that was killed
        leftover.unlink()
    # A part's name says all that its pixels depend on, so parts of other settings are never taken.
    mark = _digest({**settings, "cases": None, "cases_sha256": None})[:8]
    paths = {case: parts / f"{case.key}-{mark}.npz" for case in cases}
    todo = [case for case in cases if not paths[case].is_file()]
    bar = tqdm(_run(todo, paths, workers), total=len(todo), unit="case", disable=not progress)
    skipped = sorted((case.label, reason) for case, reason in bar if reason)
    if len(skipped) == len(cases):
        raise ValueError(f"No case could be prepared; the first: {': '.join(skipped[0])}")
    ready = [path for path in paths.values() if path.is_file()]
    return _join(ready, out, {**settings, "skipped": skipped})


def _run(cases: "list[Case]", paths: "dict[Case, Path]", workers: int) -> "Iterator[tuple[Case, str | None]]":
    """Yield (case, reason why it was skipped or None) as the cases are finished."""
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker: sums come out the same
        try:
            yield from ((case, make_part(case, paths[case])) for case in cases)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        futures = {pool.submit(make_part, case, paths[case]): case for case in cases}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C: the cases under way are finished and kept


def _start_worker() -> None:
    """One thread a worker; an interrupt is the parent's affair."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def make_part(case: "Case", path: Path) -> str | None:
    """Prepare one case and write its part; give back the reason where the case cannot be used."""
    try:
        subject = case.load()
        prepared = prepare_subject(subject)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    exam = {
        "subject_id": subject["subject_id"],
        "patient": subject.get("patient") or subject["subject_id"],
        "idh": str(subject.get("idh") or ""),
        "split": subject.get("split") or "",
        "source": subject.get("collection") or subject["source"],
        "sequences": " ".join(m for m, there in zip(Modality, prepared.available, strict=True) if there),
    }
    rows = []
    for z_mm, tumour_px, found in zip(prepared.z_mm, prepared.tumour_px, prepared.findings, strict=True):
        words = {word: getattr(found, word) for word in WORDS}
        rows.append({**exam, "z_mm": z_mm, "tumour_px": tumour_px, **words})
    about = {
        "rows": rows,
        "person": {"subject_id": subject["subject_id"]} | dict(subject.get("phenotype") or {}),
        "notes": [(case.label, note) for note in subject.get("notes") or ()],
    }
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, about=json.dumps(about), images=prepared.images, masks=prepared.masks)


def _join(parts: Sequence[Path], out: Path, manifest: dict[str, Any]) -> Cohort:
    """Write the cohort of all parts, one part in memory at a time."""
    abouts = [json.loads(str(_read(path, "about"))) for path in parts]
    table = pd.DataFrame([row for about in abouts for row in about["rows"]])
    people = pd.DataFrame([about["person"] for about in abouts])
    twice = people[people["subject_id"].duplicated()]
    if len(twice):
        raise ValueError(f"Two cases are called {twice['subject_id'].iloc[0]}, expected one: rename or move the other.")
    manifest["notes"] = [note for about in abouts for note in about["notes"]]
    images = (_read(path, "images") for path in parts)
    masks = (_read(path, "masks") for path in parts)
    return write_cohort(out, images, masks, table, people, manifest)


def _read(path: Path, name: str) -> np.ndarray:
    with np.load(path) as part:
        return part[name]
