"""A notebook served by Voilà on 127.0.0.1, and a Chromium without a window to look at it (DevTools protocol)."""

import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds, on a busy machine
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
THERE = BROWSER and find_spec("websocket") and find_spec("voila")
NEEDS_BROWSER = pytest.mark.skipif(not THERE, reason="needs Chromium, voila and websocket-client")
OPTIONS = """--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --window-size=1366,768
    --remote-debugging-port=0 --remote-allow-origins=*"""
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
TOKEN = secrets.token_hex(8)
KEYS = {"Enter": 13, "ArrowLeft": 37}


class Page:
    """One tab; `address` is of its web socket."""

    def __init__(self, address: str) -> None:
        from websocket import create_connection

        self._address, self._last = address, 0
        self._socket = create_connection(address, timeout=60, suppress_origin=True)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network", "Accessibility"):
            self.send(f"{domain}.enable")

    def another(self) -> "Page":
        """Another tab of the same browser."""
        target = self.send("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        return Page(f"{self._address.rpartition('/')[0]}/{target}")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; events that come meanwhile are kept."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while (message := json.loads(self._socket.recv())).get("id") != self._last:
            self.events.append(message)
        return message["result"]

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer}"
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Value of an expression as soon as it is true."""
        end = time.monotonic() + PATIENCE
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"{script} never true; page: {self.run('document.body.innerText')!r}"
            time.sleep(0.1)
        return value

    def key(self, key: str) -> None:
        """Press a key: a letter, or one of `KEYS`."""
        about = {"key": key, "windowsVirtualKeyCode": KEYS.get(key) or ord(key.upper())}
        text = {"Enter": "\r"}.get(key, "" if key in KEYS else key)
        self.send("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def click(self, words: str) -> None:
        """Click the button with these words, as soon as it can be."""
        button = f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {words!r})"
        self.wait(f"{button} && !{button}.disabled")
        self.run(f"{button}.click()")

    def drag(self, selector: str, points: list[tuple[float, float]], pause: float = 0.0) -> None:
        """Press the pointer on an element at the first of `points`, shares of its sides; move it, and let it go."""
        box = f"document.querySelector({selector!r}).getBoundingClientRect()"
        left, top, width, height = self.run(
            f"(() => {{ const b = {box}; return [b.left, b.top, b.width, b.height] }})()"
        )
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            where = {"x": left + x * width, "y": top + y * height, "button": "left", "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, buttons=int(kind != "mouseReleased"), **where)
            time.sleep(pause)

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Choose files in an upload box."""
        found = self.send("Runtime.evaluate", expression=f"document.querySelector({selector!r})")["result"]["objectId"]
        self.send("DOM.setFileInputFiles", files=[str(path) for path in paths], objectId=found)

    def nameless(self) -> list[str]:
        """Roles of what the keyboard reaches and a screen reader has no name for."""
        found = []
        for node in self.send("Accessibility.getFullAXTree")["nodes"]:
            focusable = any(p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", []))
            if focusable and not node["ignored"] and not node["name"]["value"].strip():
                found.append(node["role"]["value"])
        return found

    def loaded_from_outside(self) -> int:
        """Requests to other machines that the page's own policy (notebooks/voila.json) did not stop."""
        asked = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        failed = [e["params"] for e in self.events if e.get("method") == "Network.loadingFailed"]
        outside = [url for url in asked if not url.startswith(("http://127.0.0.1", "data:", "blob:", "about:"))]
        return len(outside) - sum(about.get("blockedReason") == "csp" for about in failed)


@contextmanager
def _started(command: list, ready: Callable[[Any], Any], variables: Mapping[str, str]) -> Iterator[psutil.Popen]:
    """A process that is ready; it ends with all that it started."""
    process, end = psutil.Popen(command, env={**os.environ, **variables}), time.monotonic() + PATIENCE
    try:
        while not ready(process):
            assert time.monotonic() < end and process.poll() is None, f"{command[0]} did not start"
            time.sleep(0.1)
        yield process
    finally:
        for member in [*process.children(recursive=True), process]:
            member.kill()
        process.wait()


@contextmanager
def visit(notebook: str, variables: Mapping[str, str], folder: Path) -> Iterator[tuple[Page, str, psutil.Process]]:
    """An empty tab, and the address and process of ``notebooks/<notebook>`` served with `variables` on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    voila = [sys.executable, "-m", "voila", ROOT / "notebooks" / notebook, "--no-browser", f"--port={port}"]
    voila += [f"--Voila.token={TOKEN}"]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_PATH": str(ROOT / "notebooks")}
    chromium = [BROWSER, *OPTIONS.split(), NO_NETWORK, f"--user-data-dir={folder}/profile", "about:blank"]
    debugging, started = folder / "profile/DevToolsActivePort", _started(voila, _listening, {**own, **variables})
    with started as server, _started(chromium, lambda _: debugging.is_file() and debugging.read_text(), {}):
        assert _listening(server) == {"127.0.0.1"}
        tab = Request(f"http://127.0.0.1:{debugging.read_text().split()[0]}/json/new?about:blank", method="PUT")
        with urlopen(tab, timeout=30) as answer:
            yield Page(json.load(answer)["webSocketDebuggerUrl"]), f"http://127.0.0.1:{port}/?token={TOKEN}", server


def kernels(server: psutil.Process) -> list[psutil.Process]:
    """Kernels of a server that live."""
    return [child for child in server.children(recursive=True) if "ipykernel" in " ".join(child.cmdline())]


def answer_of(address: str, host: str | None = None) -> tuple[int, str]:
    """Status and text of a page, asked for under another name of the machine."""
    try:
        with urlopen(Request(address, headers={"Host": host} if host else {}), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, ""


def _listening(process: psutil.Process) -> set[str]:
    return {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
