"""Training logs: one CSV that pandas and a reader's eye can open, and TensorBoard events beside it."""

import csv
import re
import sys
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from mrtutor.files import atomic_path

EVERY = 10  # steps per CSV row


class Log:
    """Averages training values over `EVERY` steps; validation values are written as they come.

    `log.csv` has the columns step, split, name, value. On resume, rows beyond the checkpoint are dropped, so that the
    curve has no doubled piece.
    """

    def __init__(self, folder: Path, start: int, enabled: bool = True):
        self.path, self.start, self.enabled = folder / "log.csv", start, enabled
        self.totals: dict[str, float] = {}
        self.count = 0

    def __enter__(self) -> "Log":
        if self.enabled:
            kept = self._rows_until(self.start)
            with atomic_path(self.path) as temporary, open(temporary, "w", newline="") as file:
                csv.writer(file).writerows([["step", "split", "name", "value"], *kept])
            self.file = open(self.path, "a", newline="")
            self.writer = csv.writer(self.file)
            self.board = SummaryWriter(self.path.parent / "tensorboard", purge_step=self.start)
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.file.close()
            self.board.close()

    def _rows_until(self, step: int) -> list[list[str]]:
        if step == 0 or not self.path.is_file():
            return []
        with open(self.path, newline="") as file:
            return [row for row in list(csv.reader(file))[1:] if len(row) == 4 and int(row[0]) <= step]

    def add(self, step: int, values: dict[str, float]) -> None:
        """Training values of one step."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
        self.count += 1
        if step % EVERY == 0:
            self._write(step, "train", {k: v / self.count for k, v in self.totals.items()})
            self.totals, self.count = {}, 0

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Validation values at one step."""
        self._write(step, "validation", values)

    def _write(self, step: int, split: str, values: dict[str, float]) -> None:
        if not self.enabled:
            return
        for name, value in values.items():
            self.writer.writerow([step, split, name, f"{value:.6g}"])
            self.board.add_scalar(f"{split}/{name}", value, step)
        self.file.flush()


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB.

    Linux's VmHWM counts this program alone; `ru_maxrss` also counts what the process that started it held.
    """
    if sys.platform == "win32":
        import psutil  # accelerate brings it

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource  # not on Windows

    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
