"""What a report says of the code that wrote it."""

import subprocess
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def commit() -> str:
    """Short hash of the checked-out commit, "-dirty" behind it if the package was changed since; else "unknown"."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", PACKAGE], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip() + ("-dirty" if changed else "")
