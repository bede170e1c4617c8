"""Print every page that shows measured figures anew, from ``data/results/figures.csv``.

    python -m experiments.pages

A page holds two kinds of marks, and what is between them is written here, never by hand:
``<!-- table NAME -->…<!-- /table -->`` is a table of this module,
``<!-- f EXPERIMENT MODEL METRIC GROUP COHORT -->…<!-- /f -->``
one figure in a sentence (group and cohort may be left out).
"""

import re
from collections.abc import Callable
from pathlib import Path

import nbformat

from mrtutor.figures import Figure, figure
from mrtutor.files import write_text
from mrtutor.metrics.evaluators import WORDS
from mrtutor.vocabulary import IDH, PARTS, Modality

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "data/README.md",
    "notebooks/README.md",
    "notebooks/RESULTS.md",
    "notebooks/PAPER.md",
    "notebooks/SCALE.md",
)
MODELS = {
    "D": "ours: edges concatenated to the input (variant D)",
    "A": "residual into the middle block alone (variant A)",
    "ldm": "plain LDM: ours without the edge map",
    "ldm_alone": "plain LDM, trained alone",
    "stylegan2": "StyleGAN2",
    "truth": "held-out slices",
    "autoencoder": "held-out slices through the autoencoder",
    "truth_blurred": "held-out slices, blurred",
    "truth_noisy": "held-out slices, noisy",
    "truth_wrong_modality": "held-out slices under another modality's name",
    "random": "random pairs of held-out slices",
}
COHORTS = {
    "simulated_first": "simulated, first edition",
    "simulated": "simulated",
    "real": "real",
}
REALISM = {
    "histogram": "grey levels, Wasserstein's distance",
    "edge_density": "pixels that are edges, difference",
    "power_spectrum": "power spectrum, difference",
    "fd_mr": "FD-MR",
    "core_sd": "SD inside the necrotic core",
    "oedema_sd": "SD inside the oedema",
    "grey_above_white": "share of slices with grey matter above white",
}
PAPER_TABLE_1 = {"StyleGAN2": 49.18, "LDM": 58.21, "theirs": 41.35}  # mean FID, Table 1 of the paper


def cell(experiment: str, model: str, metric: str, group: str = "mean", cohort: str = "simulated") -> str:
    """A figure as text; empty where it was not measured."""
    try:
        return str(figure(experiment, model, metric, group, cohort))
    except ValueError:
        return ""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("|" + "|".join(line) + "|" for line in lines)


def by_model(columns: dict[str, str], models: tuple[str, ...], experiment: str = "tables") -> str:
    """One row a model, one column a metric; models without any figure are left out."""
    rows = []
    for model in models:
        cells = [cell(experiment, model, metric) for metric in columns.values()]
        if any(cells):
            rows.append([MODELS[model], *cells])
    return table(["slices", *columns], rows)


def five_figures() -> str:
    """The README's table."""
    wanted = [
        ("Autoencoder, PSNR on unseen patients", "weights autoencoder ae_psnr_db all"),
        ("Edges found where they were asked for, F1 (true slices {truth})", "tables D edge_f1"),
        ("Fréchet distance on MR features (plain LDM {ldm}, StyleGAN2 {gan})", "tables D fd_mr"),
        ("Slices read as the modality asked for (true slices {cohort})", "tables D modality_accuracy"),
        ("A sequence of four slices on two CPU cores", "cost D seconds_per_sequence"),
    ]
    known = {
        "truth": f"{figure('tables', 'truth', 'edge_f1').value:.2f}",
        "ldm": f"{figure('tables', 'ldm', 'fd_mr').value:.1f}",
        "gan": f"{figure('tables', 'stylegan2', 'fd_mr').value:.1f}",
        "cohort": f"{figure('tables', 'truth', 'modality_accuracy').value:.2f}",
    }
    rows = []
    for words, key in wanted:
        found = figure(*key.split())
        rows.append([words.format(**known), str(found), str(found.n)])
    return table(["figure", "value [95 % interval]", "N"], rows)


def table_1() -> str:
    """Image quality, with the controls that the paper lacks."""
    columns = {
        "FD-MR": "fd_mr",
        "KID": "kid",
        "edge F1": "edge_f1",
        "told apart": "told_apart",
        "Dice": "dice_synthetic_ratio",
    }
    return by_model(columns, tuple(MODELS))


def table_1_modalities() -> str:
    """FD-MR of each modality."""
    rows = [[MODELS[m], *(cell("tables", m, "fd_mr", g) for g in (*Modality, "mean"))] for m in MODELS]
    return table(["slices", *Modality, "mean"], [row for row in rows if any(row[1:])])


def table_2() -> str:
    """Correspondence within a sequence."""
    columns = {"SSIM": "ssim", "NMI": "nmi", "NCC": "ncc"}
    return by_model(columns, ("truth", "D", "A", "ldm", "ldm_alone", "stylegan2", "autoencoder", "random"))


def table_3() -> str:
    """Correspondence to the sentence."""
    columns = {
        "modality of a slice": "modality_accuracy",
        "IDH type of a sequence": "idh_accuracy",
        "CLIP score, full": "clip_full",
        "gap to a wrong sentence": "clip_full_gap",
    }
    return by_model(columns, ("truth", "D", "A", "ldm", "ldm_alone", "stylegan2", "autoencoder"))


def weights() -> str:
    """The first measurement of the shipped weights."""
    wanted = {
        "Autoencoder, PSNR": "weights autoencoder ae_psnr_db all",
        "Autoencoder, PSNR on real patients": "weights autoencoder ae_psnr_db all real",
        "Autoencoder, SSIM": "weights autoencoder ae_ssim all",
        "Contrast of the enhancing rim kept": "weights autoencoder ae_rim_contrast_ratio all",
        "Modality read by an independent reader": "weights D modality_accuracy",
        "the same of true slices": "weights truth modality_accuracy",
        "Modality, from sentences unseen in training": "weights D paraphrase_modality_accuracy",
        "IDH type read from a sequence": "weights D idh_accuracy",
        "the same of true sequences": "weights truth idh_accuracy",
        "Distance to the nearest training slice": "weights D nearest_distance",
        "the same of held-out slices": "weights truth nearest_distance",
    }
    found = {words: figure(*key.split()) for words, key in wanted.items()}
    return table(["figure", "value [95 % interval]", "N"], [[w, str(f), str(f.n)] for w, f in found.items()])


LIKENESS = {
    "truth_ncc": "correlation with the true slice, inside the brain",
    "sharpness_ratio": "sharpness, as a share of the true slice's",
    "edge_f1": "edges found where they were asked for, F1",
    "lesion_contrast": "tumour above the rest of the brain, standard deviations",
    "lesion_contrast_r": "its correlation with the true one, over slices",
    "median_difference": "median grey value, less the true one",
}
SOURCES = {
    "D": "`laptop` (D)",
    "paper": "`laptop-real` (paper)",
    "autoencoder": "its autoencoder alone",
    "truth": "true slices",
}


def likeness() -> str:
    """Real structure in, real look out: each figure of each model, by modality."""
    rows = []
    for metric, words in LIKENESS.items():
        for model, name in SOURCES.items():
            cells = [cell("likeness", model, metric, m, "real") for m in Modality]
            if any(cells) and not (
                model == "truth" and metric in ("truth_ncc", "sharpness_ratio", "median_difference")
            ):
                rows.append([words, name, *cells])
    return table(["figure", "slices", *Modality], rows)


def obeyed() -> str:
    """Share of sequences in which the reader finds what the sentence says, and of sentences in another order."""
    rows = []
    for word in WORDS:
        found = [
            cell("words", m, f"word_obeyed{null}", word, "real") for m in ("ldm", "paper") for null in ("", "_null")
        ]
        rows.append([word, *found, cell("words", "truth", "word_obeyed", word, "real")])
    return table(["word", "no edge map", "null", "with edge map", "null", "true slices"], rows)


def variants() -> str:
    """Guidance variants under one small budget."""
    rows = []
    for model in "ABCD":
        found = [cell("variants", model, metric) for metric in ("edge_f1", "edge_f1_null", "training_seconds")]
        rows.append([model, *found])
    return table(["variant", "edge F1", "with another patient's edge map", "training"], rows)


def cost() -> str:
    """Seconds a sequence, alternating in one run."""
    names = {
        "D": "ours, 25 steps",
        "D_ddim100": "ours, DDIM-100",
        "ordinary_25": "the ordinary diffusers loop, 25 steps",
    }
    rows = [[words, cell("cost", model, "seconds_per_sequence")] for model, words in names.items()]
    return table(["sampler", "a sequence of four"], rows)


def realism() -> str:
    """Distances to real test patients, and texture, of each cohort."""
    rows = []
    for metric, words in REALISM.items():
        for model, name in COHORTS.items():
            cells = [cell("realism", model, metric, group, "real") for group in (*Modality, "mean")]
            rows.append([words, name, *cells])
    return table(["figure", "slices", *Modality, "mean"], [row for row in rows if any(row[2:])])


def words() -> str:
    """How often each word is said of the slices of both cohorts."""
    said = ["no tumour", *IDH, *(phrases[0] for choices in PARTS.values() for phrases in choices.values())]
    rows = [[word, *(cell("realism", model, "word", word, "real") for model in ("real", "simulated"))] for word in said]
    return table(["word", "real", "simulated"], rows)


def lessons() -> list[tuple[Path, str]]:
    """Chapters with their titles."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        first = nbformat.read(path, as_version=4).cells[0].source
        found.append((path, re.match(r"# \d+ · (.+)", first)[1]))
    return found


def chapters() -> str:
    """One line a chapter, with the minutes of its last full run."""
    rows = []
    for path, title in lessons():
        link = f"[{path.stem[:2]}](notebooks/{path.name})"
        rows.append([link, title, _minutes(path.stem)])
    return table(["chapter", "", "minutes on one core"], rows)


def teaching() -> str:
    """The lecturers' table: chapter, what it needs, minutes; from the chapters' own fact tables."""
    rows = []
    for path, title in lessons():
        facts = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells[:3])
        needs = re.search(r"Needs\**\s*\|\s*(.+?)\s*\|", facts)
        link = f"[{path.stem[:2]}](notebooks/{path.name})"
        rows.append([link, title, needs[1] if needs else "", _minutes(path.stem)])
    return table(["chapter", "", "needs", "minutes on one core"], rows)


def _minutes(name: str) -> str:
    try:
        found: Figure = figure("chapters", name, "cpu_seconds")
    except ValueError:
        return ""
    return f"{found.value / 60:.1f}"


TABLES: dict[str, Callable[[], str]] = {
    "chapters": chapters,
    "cost": cost,
    "likeness": likeness,
    "obeyed": obeyed,
    "five": five_figures,
    "realism": realism,
    "table_1": table_1,
    "table_1_modalities": table_1_modalities,
    "table_2": table_2,
    "table_3": table_3,
    "teaching": teaching,
    "variants": variants,
    "weights": weights,
    "words": words,
}


def printed(text: str, root: str = "") -> str:
    """The text of a page with every mark filled in; links of `chapters` start from `root`."""

    def fill_table(match: re.Match) -> str:
        body = TABLES[match[1]]().replace("](notebooks/", f"]({root}")
        return f"<!-- table {match[1]} -->\n{body}\n<!-- /table -->"

    def fill_figure(match: re.Match) -> str:
        return f"<!-- f {match[1]} -->{figure(*match[1].split())}<!-- /f -->"

    text = re.sub(r"<!-- table (\w+) -->.*?<!-- /table -->", fill_table, text, flags=re.S)
    return re.sub(r"<!-- f ([^>]+?) -->.*?<!-- /f -->", fill_figure, text, flags=re.S)


def page_text(name: str) -> tuple[str, str]:
    """A page as it is, and as it should be."""
    text = (ROOT / name).read_text(encoding="utf-8")
    root = "notebooks/" if name == "README.md" else "" if name.startswith("notebooks/") else "../notebooks/"
    return text, printed(text, root)


def main() -> None:
    """Write the pages that changed."""
    for name in PAGES:
        old, new = page_text(name)
        if old != new:
            write_text(ROOT / name, new)
            print(f"{name}: printed anew")


if __name__ == "__main__":
    main()
