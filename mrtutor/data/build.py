"""Build a cohort folder, patient by patient, in parallel: resumable, flat in memory, safe to interrupt.

Each patient becomes one compressed part in ``.parts``, under its final name only when whole. When all parts are
there they are joined; ``cohort.json`` is written last, so a folder without it is unfinished.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mrtutor.data.assemble import assemble
from mrtutor.data.manifest import MANIFEST, PARTS, VERSION, read_manifest
from mrtutor.data.prepare import PARAMETERS, prepare_subject
from mrtutor.data.sources import Case
from mrtutor.files import atomic_path, write_json

SETTINGS = "settings.json"


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        path: the cohort.
        patients: patients in it.
        slices: slices in it.
        skipped: (case, reason) of each case left out.
        already_complete: nothing was to be done.
    """

    path: Path
    patients: int
    slices: int
    skipped: list[tuple[str, str]]
    already_complete: bool = False


def build_cohort(
    cases: Sequence[Case], out: str | Path, settings: dict[str, Any], workers: int = 1, progress: bool = True
) -> BuildReport:
    """Prepare every case and write a cohort folder.

    Interrupt it at any time and call it again: finished patients are kept. A case that cannot be prepared is
    skipped and listed with its reason, in the report and in ``cohort.json``.

    Args:
        cases: the patients.
        out: folder of the cohort, new, unfinished, or finished with the same settings.
        settings: what the slices depend on besides the preparation (seed, noise, …), JSON-able; goes to the manifest.
        workers: processes; 1 works in this one.
        progress: show a progress bar.

    Raises:
        ValueError: fewer than one worker; ``out`` holds something else; two cases with one subject id; no case
            could be prepared.
        OSError: no permission, a full disk: finished patients are kept, call again.
        RuntimeError: a worker was killed (memory): call again with fewer.
    """
    if workers < 1:
        raise ValueError(f"Expected at least 1 worker, got {workers}.")
    out = Path(out)
    keys = hashlib.sha256("\n".join(case.key for case in cases).encode()).hexdigest()
    settings = {**settings, "preparation": PARAMETERS, "cases": len(cases), "cases_sha256": keys}
    settings = json.loads(json.dumps(settings))  # as it will be read back
    if done := _already_complete(out, settings):
        return done
    parts = _open_parts(out, settings)
    paths = {case: parts / f"{case.key}.npz" for case in cases}
    todo = [case for case in cases if not paths[case].is_file()]
    skipped = []
    with tqdm(total=len(cases), initial=len(cases) - len(todo), unit="patient", disable=not progress) as bar:
        for case, reason in _run(todo, paths, workers):
            bar.update()
            if reason:
                skipped.append((case.label, reason))
    skipped.sort()
    ready = [path for path in paths.values() if path.is_file()]
    if not ready:
        raise ValueError(f"None of {len(cases)} case(s) could be prepared; the first: {skipped[0][0]}: {skipped[0][1]}")
    patients, slices = assemble(ready, out, {"version": VERSION, **settings, "skipped": [list(s) for s in skipped]})
    shutil.rmtree(parts)
    return BuildReport(out, patients, slices, skipped)


def _already_complete(out: Path, settings: dict[str, Any]) -> BuildReport | None:
    """Report of a finished cohort with the same settings; None where there is none."""
    if not (out / MANIFEST).exists():
        return None
    manifest = read_manifest(out)
    _compare(out, {key: manifest.get(key) for key in settings}, settings)
    shutil.rmtree(out / PARTS, ignore_errors=True)  # left where the last run was cut after the manifest
    skipped = [tuple(entry) for entry in manifest["skipped"]]
    return BuildReport(out, manifest["patients"], manifest["slices"], skipped, already_complete=True)


def _open_parts(out: Path, settings: dict[str, Any]) -> Path:
    """Folder of the parts; the cases may differ from the last run's (a part's name says all of its case), no more."""
    out.mkdir(parents=True, exist_ok=True)
    parts = out / PARTS
    parts.mkdir(exist_ok=True)
    mine = {key: value for key, value in settings.items() if not key.startswith("cases")}
    if (parts / SETTINGS).is_file():
        _compare(out, json.loads((parts / SETTINGS).read_text(encoding="utf-8")), mine)
    else:
        write_json(parts / SETTINGS, mine)
    for leftover in (*out.glob(".tmp-*"), *parts.glob(".tmp-*")):
        if leftover.is_file():  # of a run that was killed
            leftover.unlink()
    return parts


def _compare(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    different = [f"{key} was {old.get(key)}, now {new[key]}" for key in new if old.get(key) != new[key]]
    if different:
        raise ValueError(
            f"{out} holds a cohort of other settings ({'; '.join(different)}): "
            "choose another --out, or delete the folder to build it anew."
        )


def _run(cases: list[Case], paths: dict[Case, Path], workers: int) -> Iterator[tuple[Case, str | None]]:
    """Yield (case, reason why it was skipped or None) as the cases are finished."""
    if workers == 1 or len(cases) < 2:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker: sums come out the same
        try:
            yield from ((case, make_part(case, paths[case])) for case in cases)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(cases)), mp_context=context, initializer=_start_worker)
    try:
        with _ctrl_c_ignored():  # the workers start here and inherit it: an interrupt is the parent's affair
            futures = {pool.submit(make_part, case, paths[case]): case for case in cases}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C: the patients under way are finished and kept


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Ignore SIGINT for a moment; only the main thread can, elsewhere (a server) nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker() -> None:
    """One thread per worker; no worker outlives its parent."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def make_part(case: Case, path: Path) -> str | None:
    """Prepare one case and write its part.

    Returns:
        None, or the reason why the case cannot be used.
    """
    try:
        subject = case.load()
        prepared = prepare_subject(subject)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    about = {
        "subject_id": subject["subject_id"],
        "idh": str(subject["idh"]),
        "source": subject["source"],
        "phenotype": {k: _plain(v) for k, v in dict(subject.get("phenotype") or {}).items()},
    }
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, about=json.dumps(about), **vars(prepared))
    return None


def _plain(value: Any) -> Any:
    """A phenotype value that JSON and CSV can hold."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value if isinstance(value, bool | int | float | str | None) else str(value)
