"""The whole of UCSF-PDGM in small: 495 patients, 501 exams; counts, time, memory, kill -9 and resume.

    python tests/benchmarks/bench_public.py [--out outputs/bench_public] [--workers 2]

Runs `mrtutor prepare` as a user would, three times: whole; killed in the middle with all its workers, then resumed; and
on the first tenth of the patients, to see whether memory grows with their number. The volumes are mock ones (84 x 84 x
12 voxels), so the times say nothing of real volumes; memory is that of the main process and of its largest worker.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from public_trees import ucsf_tree  # noqa: E402

from mrtutor.data.cohort import Cohort  # noqa: E402
from mrtutor.data.skipped import count_reasons  # noqa: E402
from mrtutor.files import sha256  # noqa: E402

FINAL = ("slices.npy", "masks.npy", "slices.csv", "patients.csv", "cohort.json")


def start(tree: Path, table: Path, out: Path, workers: int) -> subprocess.Popen:
    """`mrtutor prepare` in a process group of its own."""
    command = [sys.executable, "-m", "mrtutor", "prepare", tree, "--source", "ucsf-pdgm", "--labels", table]
    command += ["--out", out, "--workers", workers]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [str(word) for word in command], env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True
    )


def peak_mib(group: int) -> list[float]:
    """Peak resident memory so far of each process of a group, MiB, the largest first."""
    peaks = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.getpgid(int(status.parent.name)) != group:
                continue
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            peaks.append(int(lines["VmHWM"].split()[0]) / 1024)
        except (OSError, KeyError):
            continue  # it has just ended
    return sorted(peaks, reverse=True)


def watch(process: subprocess.Popen, out: Path, stop_at: int | None = None) -> dict:
    """Wait for the end, or kill the whole group when `stop_at` parts are done."""
    began, peaks = time.monotonic(), []
    while process.poll() is None:
        peaks = [max(pair) for pair in zip_longest(peak_mib(process.pid), peaks, fillvalue=0.0)]
        if stop_at and len(list((out / ".parts").glob("[!.s]*.npz"))) >= stop_at:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            break
        time.sleep(0.05)
    last = (process.stdout.read().strip().splitlines() or [""])[-1]
    return {"seconds": round(time.monotonic() - began, 1), "peak_mib": [round(p) for p in peaks], "said": last}


def main() -> None:
    """Measure, assert, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench_public"))
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    base = args.out.resolve()
    shutil.rmtree(base, ignore_errors=True)
    table = ucsf_tree(base / "all" / "tree")
    few = ucsf_tree(base / "few" / "tree", patients=49, rows=50, wild_rows=40)
    report = {"whole": watch(start(base / "all" / "tree", table, base / "whole", args.workers), base / "whole")}
    cut = base / "cut"
    report["killed"] = watch(start(base / "all" / "tree", table, cut, args.workers), cut, stop_at=200)
    report["parts_when_killed"] = len(list((cut / ".parts").glob("[!.s]*.npz")))
    assert not (cut / "cohort.json").exists()
    report["resumed"] = watch(start(base / "all" / "tree", table, cut, args.workers), cut)
    report["a_tenth"] = watch(start(base / "few" / "tree", few, base / "tenth", args.workers), base / "tenth")
    report["same_bit_for_bit"] = all(sha256(cut / name) == sha256(base / "whole" / name) for name in FINAL)
    cohort = Cohort.open(base / "whole", verify=True)
    report["patients"] = cohort.patients["idh"].value_counts().to_dict()
    report["skipped"] = count_reasons(cohort.manifest["skipped"])
    print(json.dumps(report, indent=2))
    assert report["same_bit_for_bit"]
    assert sum(report["patients"].values()) == 495
    assert report["skipped"] == {"follow-up of the same patient": 6}
    shutil.rmtree(base)
    print("Done: 495 mock patients prepared, killed, resumed; the same bit for bit.")


if __name__ == "__main__":
    main()
