"""Everything that is measured of the models, one section after another: `mrtutor evaluate`.

First every model draws its set (`mrtutor.metrics.draws`; resumable sequence by sequence), then each section is computed
and stored at once: a run that was cut off goes on with the next one, and a model that joins or changes costs its own
rows alone. The report is `data/results/evaluation.json`; its keys are those of DESIGN section 3.
"""

import json
from collections.abc import Callable, Collection
from pathlib import Path

from tqdm.auto import tqdm

from mrtutor.files import write_json
from mrtutor.metrics import table1
from mrtutor.metrics import utility as segmentation
from mrtutor.metrics.record import commit
from mrtutor.metrics.rows import joined, named, without
from mrtutor.metrics.setting import Drawn, Setting, draw_all
from mrtutor.metrics.table2 import PREDICTION, table2
from mrtutor.metrics.table3 import prompt_against_mask, table3

REPORT = Path("data/results/evaluation.json")
DRAWS = Path("outputs/evaluation")


def evaluate(
    setting: Setting,
    output: str | Path = REPORT,
    folder: str | Path = DRAWS,
    sections: Collection[str] | None = None,
) -> dict:
    """Draw, measure, write.

    Args:
        setting: see `Setting`.
        output: the report. Nothing of other patients or another seed is kept; else what stands there already stays,
            apart from the rows of models that changed (in weights, in N, in the pixels they were drawn for) and from
            sections whose judges did. A model that is left out this time keeps its rows, and their N.
        folder: of the drawn sets.
        sections: of `MEASURES`, to be measured now; default all.

    Returns:
        The report: "of" (the key), "seed", "commit" (of the newest figures), "preset", "simulated", and `SECTIONS`.

    Raises:
        ValueError: unknown sections; see `Setting.check`.
    """
    chosen = check_sections(sections)
    setting.check()
    if setting.reader is None and "prompt_against_mask" in chosen:
        raise ValueError("Section prompt_against_mask asks the independent reader: give one, or leave the section out.")
    output = Path(output)
    stored = json.loads(output.read_text()) if output.is_file() else {}
    key = _key(stored.get("of"), setting, chosen)
    kept = _kept(stored, setting, key)
    missing = {section: names for section in chosen if (names := _missing(setting, section, kept.get(section)))}
    if not missing:
        return stored
    if kept:
        key["samplers"] = stored["of"]["samplers"] | key["samplers"]
    report = {"of": key, "seed": setting.seed, "commit": commit(), "preset": setting.preset}
    report |= {"simulated": setting.cohort.simulated, "count": setting.count} | kept
    drawn = draw_all(setting, folder, missing)
    bar = tqdm(missing.items(), desc="sections")
    for section, names in bar:
        bar.set_postfix_str(section)
        report = joined(report, MEASURES[section](setting, drawn.only(names)))
        write_json(output, report)
    return report


def check_sections(sections: Collection[str] | None) -> list[str]:
    """Chosen sections in the order of the report; all for None.

    Raises:
        ValueError: unknown ones.
    """
    if unknown := set(sections or ()) - MEASURES.keys():
        raise ValueError(f"Unknown section {', '.join(sorted(unknown))}: expected one of {', '.join(MEASURES)}.")
    return [section for section in MEASURES if not sections or section in sections]


def _key(of: dict | None, setting: Setting, chosen: Collection[str]) -> dict:
    """The setting's key; what none of the chosen sections reads stays as the stored report has it."""
    read = {part for section in chosen for part in READS[section]}
    judges = {part for parts in READS.values() for part in parts}
    return setting.key | {part: of[part] for part in judges - read if of and part in of}


def _kept(stored: dict, setting: Setting, key: dict) -> dict:
    """Sections, and rows in them, of a stored report that still hold."""
    of = stored.get("of")
    if not of or any(of.get(part) != key[part] for part in ("recipe", "seed")):
        return {}
    changed = [name for name, now in key["samplers"].items() if of["samplers"].get(name, now) != now]
    holds = [s for s in SECTIONS if s in stored and all(of.get(part) == key[part] for part in READS[s])]
    return {s: without(stored[s], [_row(setting, s, name) for name in changed]) for s in holds}


def _missing(setting: Setting, section: str, stands: dict | None) -> list[str]:
    """Models whose rows a section lacks."""
    models = [name for name, s in setting.samplers.items() if section != "structure" or s.follows_structure]
    asked = [*models, *([] if section in MODELS_ONLY else setting.references)]
    rows = [_row(setting, section, name) for name in asked]
    there = named(stands, rows)
    return [name for name, row in zip(asked, rows, strict=True) if row not in there]


def _row(setting: Setting, section: str, name: str) -> str:
    """Under which name a section speaks of a model."""
    return PREDICTION if section == "table2" and name == setting.first else name


def _table2(setting: Setting, drawn: Drawn) -> dict:
    sets = {**drawn.own, **drawn.references}
    return {"table2": table2(sets, drawn.truth, setting.seed, prediction=setting.first)}


def _table3(setting: Setting, drawn: Drawn) -> dict:
    sets = {**drawn.own, **drawn.references}
    tables = {name: table3(sets, drawn.truth, judge, name) for name, judge in setting.judges.items()}
    if setting.first not in sets:  # at the top stands the prediction
        tables = {name: {key: table[key] for key in ("retrieval", "models")} for name, table in tables.items()}
    main, *others = tables
    return {"table3": {**tables[main], "other_judges": {name: tables[name] for name in others}}}


def _prompt_against_mask(setting: Setting, drawn: Drawn) -> dict:
    return {"prompt_against_mask": prompt_against_mask(setting.reader, drawn.own, drawn.swapped, drawn.truth)}


def _table1(setting: Setting, drawn: Drawn) -> dict:
    """Also brings the floor."""
    options = {"rows": drawn.truth.rows, "resamples": setting.resamples}
    quality = table1.image_quality(drawn.images(), setting.cohort, setting.features, setting.seed, **options)
    floor = quality.pop("floor")
    return {"table1": quality, "floor": floor}


def _structure(setting: Setting, drawn: Drawn) -> dict:
    return {"structure": table1.structure(drawn.images(), drawn.truth.rows, setting.cohort, setting.seed)}


def _two_sample(setting: Setting, drawn: Drawn) -> dict:
    options = {} if setting.steps is None else {"steps": setting.steps}
    args = drawn.images(), drawn.truth.rows, setting.cohort, setting.features, setting.seed
    return {"two_sample": table1.two_sample(*args, **options)}


def _memorisation(setting: Setting, drawn: Drawn) -> dict:
    return {"memorisation": table1.memorisation(drawn.images(models_only=True), drawn.truth.rows, setting.cohort)}


def _utility(setting: Setting, drawn: Drawn) -> dict:
    options = {} if setting.steps is None else {"steps": setting.steps}
    args = drawn.images(models_only=True), drawn.truth.rows, setting.cohort, setting.seed
    return {"utility": segmentation.utility(*args, **options, repeats=setting.repeats)}


MEASURES: dict[str, Callable[[Setting, Drawn], dict]] = {
    "table2": _table2,
    "table3": _table3,
    "prompt_against_mask": _prompt_against_mask,
    "table1": _table1,
    "structure": _structure,
    "two_sample": _two_sample,
    "memorisation": _memorisation,
    "utility": _utility,
}
SECTIONS = (*MEASURES, "floor")
MODELS_ONLY = ("prompt_against_mask", "memorisation", "utility")  # where the references have no row
READS = {  # parts of the key that a section depends on, besides models, cohort and seed
    "table2": (),
    "table3": ("judges",),
    "prompt_against_mask": ("reader", "swaps"),
    "table1": ("features", "resamples"),
    "floor": ("features", "resamples"),
    "structure": (),
    "two_sample": ("features", "steps"),
    "memorisation": (),
    "utility": ("steps", "repeats", "few"),
}
