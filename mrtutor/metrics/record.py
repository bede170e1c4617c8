"""What a report says of the code that wrote it."""

import subprocess


def commit() -> str:
    """Short hash of the checked-out commit, or "unknown" outside a git repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
