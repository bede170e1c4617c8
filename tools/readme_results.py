"""Tables 1, 2 and 3 for the README, from data/results/evaluation.json."""

import json
from pathlib import Path

MODELS = {  # names in the report, in the order of the tables
    "ours": "ours",
    "variant_A": "the paper's guidance (variant A)",
    "ldm": "plain LDM: ours, structure left out",
    "ldm_alone": "plain LDM, trained alone",
    "stylegan2": "StyleGAN2",
}
NULLS = {
    "reconstruction": "held-out slices through the autoencoder",
    "blurred real": "held-out slices, blurred",
    "noisy real": "held-out slices, noisy",
    "wrong modality": "held-out slices under another modality's name",
}
MISSING = "Not measured yet: `mrtutor evaluate`."


def results(root: Path) -> str:
    """The three tables as Markdown; a model or section that is not in the report is not in the tables."""
    path = root / "data/results/evaluation.json"
    if not path.is_file():
        return MISSING
    report = json.loads(path.read_text())
    n = f"N = {report['count']} sequences a model, where no other N stands"
    about = f"{n}; seed {report['seed']}; 95 % intervals in brackets."
    return "\n\n".join([about, *(part(report) for part in (table_1, table_2, table_3))])


def with_interval(entry: dict, digits: int = 2) -> str:
    """Value [low, high]."""
    low, high = entry["ci95"]
    return f"{entry['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def other_n(report: dict, entry: dict) -> str:
    """The N of a row that has not the report's own."""
    return "" if entry["n"] == report["count"] else f", N = {entry['n']}"


def table_1(report: dict) -> str:
    """Image quality, what a machine tells, and what the pictures are good for."""
    distances, floor = report["table1"]["fid_mr"], report["floor"]["fid_mr"]["average"]
    lines = [
        "**Table 1, image quality.** FD-MR: Fréchet distance to the training slices on the course's MR features, mean",
        "of the modalities. Edge F1: with the structure asked for. Told apart: share that a classifier tells from",
        "held-out slices; in the floor's row, training slices stand against these. Dice: of segmenters that saw",
        "synthetic slices only, over that of those taught by the cohort.",
        "",
        "| pictures | FD-MR | above the floor | edge F1 | told apart | Dice, synthetic only |",
        "|---|---|---|---|---|---|",
    ]
    told, use, follows = (report.get(section, {}) for section in ("two_sample", "utility", "structure"))
    for name, label in MODELS.items():
        if name not in distances:
            continue
        entry = distances[name]["average"]
        apart = with_interval(told[name]["features"]) if name in told else ""
        dice = with_interval(use[name]["synthetic_ratio"]) + " ×" if name in use else ""
        f1 = with_interval(follows[name]) if name in follows else ""
        above = f"{entry['value'] - floor['value']:.2f}"  # no ratio: with many slices the floor comes near 0
        n = other_n(report, next(iter(distances[name].values())))  # of one modality; the average counts all four
        lines.append(f"| {label}{n} | {with_interval(entry)} | {above} | {f1} | {apart} | {dice} |")
    apart = with_interval(told["cohort"]["features"]) if "cohort" in told else ""
    f1 = with_interval(follows["attainable"]) if "attainable" in follows else ""
    lines.append(f"| *held-out slices: the floor* | {with_interval(floor)} | 0 | {f1} | {apart} | 1 × |")
    for name, label in NULLS.items():
        if name in distances:
            entry = distances[name]["average"]
            above = entry["value"] - floor["value"]
            f1 = with_interval(follows[name]) if name in follows else ""
            lines.append(f"| *{label}* | {with_interval(entry)} | {above:.2f} | {f1} | | |")
    return "\n".join(lines)


def table_2(report: dict) -> str:
    """Correspondence within a sequence."""
    lines = [
        "**Table 2, correspondence within a sequence.** Mean ± sd of the six pairs of modalities; distance from the",
        "cohort in units of the cohort's distance from random pairs (0 is perfect, 1 is chance).",
        "",
        "| | cohort | ours | random pairs | distance |",
        "|---|---|---|---|---|",
    ]
    for figure in ("ssim", "nmi", "ncc"):
        sources = [report["table2"][figure][name] for name in ("gt", "prediction", "random")]
        cells = " | ".join(f"{s['mean']:.3f} ± {s['sd']:.3f}" for s in sources)
        lines.append(f"| {figure.upper()} | {cells} | {report['table2']['closeness'][figure]:.2f} |")
    return "\n".join(lines)


def table_3(report: dict) -> str:
    """Correspondence to the prompt."""
    found = report["table3"]["retrieval"]
    lines = [
        "**Table 3, correspondence to the prompt.** How often the nearest of the eight prompts is the one asked for,",
        f"by a CLIP that guided no generator ({report['table3']['judge']}).",
        "",
        "| pictures | modality of a slice | IDH type of a sequence |",
        "|---|---|---|",
    ]
    for name, label in {**MODELS, "cohort": "*held-out slices: the ceiling*"}.items():
        if name in found:
            shares = (with_interval(found[name][key]) for key in ("modality", "idh_of_sequence"))
            n = other_n(report, found[name]["idh_of_sequence"])
            lines.append(f"| {label}{n} | {' | '.join(shares)} |")
    return "\n".join(lines)
