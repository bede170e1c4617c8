"""Chromium without a window, driven through its DevTools protocol: a web socket and JSON, no driver program.

Needs the package websocket-client, which Jupyter's server brings, and a Chromium or Chrome on the machine.
"""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from websocket import WebSocketTimeoutException, create_connection

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # the sandbox needs rights that containers lack; only our own page is opened
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--window-size=1300,1000",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the page must work without a network
)


def find_browser() -> str | None:
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab.

    Args:
        address: of the tab's web socket.
    """

    def __init__(self, address: str) -> None:
        self._socket = create_connection(address, timeout=60, suppress_origin=True)
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        self._socket.close()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; events that come meanwhile are kept.

        Raises:
            RuntimeError: the browser refused.
        """
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while (message := json.loads(self._socket.recv())).get("id") != self._last:
            self.events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def event(self, name: str, seconds: float = 30) -> dict[str, Any]:
        """Parameters of the next event of this name.

        Raises:
            TimeoutError: none came.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for i, message in enumerate(self.events):
                if message.get("method") == name:
                    return self.events.pop(i)["params"]
            self._socket.settimeout(1)
            try:
                self.events.append(json.loads(self._socket.recv()))
            except WebSocketTimeoutException:
                continue
            finally:
                self._socket.settimeout(60)
        raise TimeoutError(f"no {name} within {seconds:g} s")

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression, run as if by a click of the user.

        Raises:
            RuntimeError: the script threw.
        """
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float) -> Any:
        """Value of an expression as soon as it is true.

        Raises:
            TimeoutError: it never was; the message has the page's text.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.3)
        raise TimeoutError(f"{script} not true within {seconds:g} s; page: {self.run('document.body.innerText')!r}")

    def screenshot(self, path: Path) -> None:
        """Save what is seen, for a look after a failure."""
        import base64

        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


@contextmanager
def browser(path: str, seconds: float = 60) -> Iterator[Page]:
    """A fresh browser with one empty tab; ended afterwards.

    Raises:
        RuntimeError: it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [path, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            page = Page(_new_tab(Path(profile) / "DevToolsActivePort", process, seconds))
            try:
                yield page
            finally:
                page.close()
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _new_tab(port_file: Path, process: subprocess.Popen, seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if port_file.is_file() and (lines := port_file.read_text().split()):
            request = Request(f"http://127.0.0.1:{lines[0]}/json/new?about:blank", method="PUT")
            with urlopen(request, timeout=30) as answer:
                return json.load(answer)["webSocketDebuggerUrl"]
        time.sleep(0.2)
    raise RuntimeError(f"the browser did not open its debugging port within {seconds:g} s (exit {process.poll()})")
