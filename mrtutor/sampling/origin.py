"""What the networks of a run were trained on: written by training, read for the model card."""

import json
from pathlib import Path

from mrtutor.files import write_json

ORIGIN = "runs/origin.json"  # in the run's folder, beside the logs
PACKED = "origin.json"  # in a pipeline's folder
SIMULATED = "simulated"


def record_origin(run: Path, stage: str, about: dict) -> None:
    """Write what made a stage's component.

    Args:
        about: source, patients, cohort_seed and cohort (key of its pixels) that trained it, and device; or given, the
            folder or hub id it was taken from. Also start, where training began with weights from elsewhere, and note.
    """
    write_json(run / ORIGIN, _read(run) | {stage: about})


def read_origins(run: Path, stages: list[str]) -> dict[str, dict]:
    """What made each of these stages; {} where nobody wrote it down."""
    return {stage: _read(run).get(stage, {}) for stage in stages}


def _read(run: Path) -> dict[str, dict]:
    path = run / ORIGIN
    return json.loads(path.read_text()) if path.is_file() else {}


def kind(origins: dict[str, dict]) -> str:
    """Data behind all stages: "simulated"; "real", where any of it is not; "unknown", where it is not all recorded."""
    sources = [origin.get("source") for origin in origins.values()]
    if any(source not in (None, SIMULATED) for source in sources):
        return "real"
    if None in sources or any("start" in origin for origin in origins.values()):
        return "unknown"
    return SIMULATED


def describe(origins: dict[str, dict]) -> str:
    """Data of the stages in words, those of one origin together."""
    groups: dict[str, list[str]] = {}
    for stage, origin in origins.items():
        groups.setdefault(_words(origin), []).append(stage)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{', '.join(stages)}: {words}" for words, stages in groups.items())


def devices(origins: dict[str, dict]) -> str:
    """What trained the stages."""
    return "; ".join(dict.fromkeys(o["device"] for o in origins.values() if "device" in o)) or "not recorded"


def notes(origins: dict[str, dict]) -> str:
    """Remarks on single stages, a paragraph each."""
    return "".join(f"\n{stage}: {origin['note']}\n" for stage, origin in origins.items() if "note" in origin)


def _words(origin: dict) -> str:
    if "given" in origin:
        return f"taken from {origin['given']}, not trained here"
    if "source" not in origin:
        return "not recorded"
    seed = "" if origin["cohort_seed"] is None else f", seed {origin['cohort_seed']}"
    began = f", from {origin['start']}" if "start" in origin else ""
    cohort = f"{origin['source']} cohort of {origin['patients']} patients{seed} (`{origin['cohort']}`)"
    return f"{cohort}, training split{began}"
