"""Write the README's tables of figures and of chapters from what full runs left in data/results and notebooks.

    python -m tools.readme_tables           rewrite README.md
    python -m tools.readme_tables --check   exit 1 if it would change

Each table stands between `<!-- name -->` and `<!-- /name -->`; a figure that nobody measured is not in it.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from tools.readme_results import results

PLACES = r"(?:§|Eq\. |Fig\. |Table )[\d.]*\d(?:(?: and |–)§?[\d.]*\d)?"  # of a paper: §3.2, Eq. 2 and 3, Fig. 2
ROOT = Path(__file__).resolve().parents[1]
FIGURES = (
    ("Autoencoder, PSNR of unseen patients (dB)", "autoencoder", "psnr_db", "noise alone", "ceiling_psnr_db"),
    ("Autoencoder, SSIM", "autoencoder", "ssim", "noise alone", "ceiling_ssim"),
    ("Contrast of the enhancing rim kept", "autoencoder", "rim_contrast_ratio", None, None),
    ("Modality read by an independent reader", "prompt", "modality_accuracy", "cohort", "modality_accuracy_cohort"),
    ("… from sentences unseen in training", "prompt", "paraphrase_modality_accuracy", None, None),
    ("IDH type read from a sequence", "prompt", "idh_accuracy", "cohort", "idh_accuracy_cohort"),
    ("Edge F1 with the mask", "structure", "D", "true slices", "attainable"),
    ("Edge F1 with another patient's mask", "structure", "null", None, None),
    ("A drawn tumour brightens what it encloses (FLAIR, T2)", "tumour", "brightening", "true tumours", "cohort"),
)


def figures(root: Path = ROOT) -> str:
    """Table of the weights' figures, from data/results/weights.json."""
    path = root / "data/results/weights.json"
    if not path.is_file():
        return "Not measured yet: `mrtutor evaluate --quick`."
    results = json.loads(path.read_text())
    lines = ["| figure | value | 95 % interval | N | yardstick |", "|---|---|---|---|---|"]
    for label, section, key, words, other in FIGURES:
        entry = results.get(section, {}).get(key)
        if entry is None:
            continue
        beside = results[section].get(other) if other else None
        yardstick = f"{words} {beside['value']:.3g}" if beside else ""
        low, high = entry["ci95"]
        lines.append(f"| {label} | {entry['value']:.3g} | {low:.3g} … {high:.3g} | {entry['n']} | {yardstick} |")
    for metric, sources in results.get("sequence", {}).items():
        made, cohort, random = (sources[name] for name in ("generated", "cohort", "random"))
        low, high = made["ci95"]
        lines.append(
            f"| {metric.upper()} between modalities | {made['value']:.3f} | {low:.3f} … {high:.3f} | {made['n']} "
            f"| cohort {cohort['value']:.3f}, random {random['value']:.3f} |"
        )
    return "\n".join(lines)


def chapters(root: Path = ROOT) -> str:
    """Table of chapters, from their titles and fact tables."""
    lines = ["| notebook | in `mrtutor` | paper | time |", "|---|---|---|---|"]
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0].removeprefix("# ").split("·", 1)[1].strip()
        source = "".join(cells[1]["source"])
        facts = dict(re.findall(r"^\| *\**(\w+)\** *\| *(.*?) *\|$", source, flags=re.M))
        code = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code")
        used = sorted(set(re.findall(r"^from mrtutor\.(\w+)", code, flags=re.M)) - {"files", "_environment"})
        modules = ", ".join(f"`{name}`" for name in used)
        name = f"[{path.stem}](notebooks/{path.name})"
        places = ", ".join(dict.fromkeys(re.findall(PLACES, facts["Paper"])))
        lines.append(f"| {name}: {title} | {modules} | {places} | {facts['Time']} |")
    return "\n".join(lines)


def rewritten(text: str, root: Path = ROOT) -> str:
    """README with its tables made anew.

    Raises:
        ValueError: a table's marks are missing.
    """
    for name, table in (("figures", figures), ("results", results), ("chapters", chapters)):
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        if not re.search(pattern, text, flags=re.S):
            raise ValueError(f"README.md lacks <!-- {name} --> … <!-- /{name} -->: put the two marks back.")
        content = table(root)
        text = re.sub(pattern, lambda m, content=content: f"{m[1]}{content}\n{m[2]}", text, flags=re.S)
    return text


def main() -> int:
    """Rewrite README.md, or check it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something would change")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = rewritten(before)
    if check:
        print(
            "README.md is up to date."
            if after == before
            else "README.md is out of date: run python -m tools.readme_tables"
        )
        return int(after != before)
    readme.write_text(after)
    print("README.md: tables written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
