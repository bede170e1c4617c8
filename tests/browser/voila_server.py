"""A notebook served by Voilà on 127.0.0.1, in a process of its own that leaves no kernel behind."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 400  # seconds, on a busy machine


@contextmanager
def serve(notebook: str, variables: Mapping[str, str], folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Serve `notebooks/<notebook>`; address and process.

    Args:
        variables: added to the environment.
        folder: working directory; `voila.log` is written there.

    Raises:
        RuntimeError: no answer; the end of the log is in the message.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "voila", str(ROOT / "notebooks" / notebook), "--no-browser"]
    command += ["--Voila.ip=127.0.0.1", f"--port={port}", "--show_tracebacks=True"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(variables)
    log = folder / "voila.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=folder)
        try:
            _wait_for(port, process, log)
            yield f"http://127.0.0.1:{port}/", psutil.Process(process.pid)
        finally:
            family = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for kernel in psutil.wait_procs(family, timeout=5)[1]:
                kernel.kill()


def _wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            urlopen(f"http://127.0.0.1:{port}/voila/static/", timeout=5)
        except URLError as error:
            if hasattr(error, "code"):  # an HTTP error is an answer
                return
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"Voilà did not answer: {log.read_text()[-2000:]}")
