# Setup, the same in every chapter: finds the course and installs what is missing; after `make run` nothing is.
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

here, alone = Path.cwd(), Path.cwd() / "mrtutor-course"
root = next((p for p in (here, alone, *here.parents) if (p / "mrtutor/__init__.py").is_file()), None)
if root is None and find_spec("mrtutor") is None:  # this notebook came alone, as on Colab: fetch the rest
    address = os.environ.get("MRTUTOR_REPOSITORY")
    if not address:
        raise FileNotFoundError("Put `%env MRTUTOR_REPOSITORY=git address of the course` in a cell above and run it.")
    subprocess.run(["git", "clone", "--depth", "1", address, str(alone)], check=True)
    root = alone
if root is not None:
    os.chdir(root)  # every chapter works from the root of the course; relative paths start there
    sys.path.insert(0, str(root))

from mrtutor._environment import install_missing

missing = install_missing()
