"""Look at a report in a real browser: screenshots at phone and desktop width, light, dark and print.

    python tests/report/browser.py DIRECTORY_OR_HTML OUTPUT_FOLDER

A directory is that of a run (its report.html) or of a comparison (its compare.html).

Drives Chromium through its own pipe (no package needed), with the network disabled.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
TIMEOUT_SECONDS = 400  # a busy machine takes minutes over Plotly's five megabytes


def chromium() -> str | None:
    """Path of Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One tab of a headless Chromium. ``problems`` collects console errors, exceptions and network requests."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory()
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()

        def connect() -> None:
            # Chromium reads commands from descriptor 3 and answers on 4; move ours out of the way first.
            read, write = os.dup(their_in), os.dup(their_out)
            low, high = (os.dup(read), os.dup(write))
            os.dup2(low, 3)
            os.dup2(high, 4)

        command = [chromium() or "chromium", *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            command, preexec_fn=connect, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(their_in)
        os.close(their_out)
        self._buffer, self._next, self.problems = b"", 0, []
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile.name, ignore_errors=True)
        self._profile._finalizer.detach()

    def send(self, method: str, **params):
        """One command; returns its result."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._next:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium closed its pipe")
            self._buffer += chunk
        raw, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(raw)
        self._watch(message.get("method"), message.get("params", {}))
        return message

    def _watch(self, method: str | None, params: dict) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(str([a.get("value") for a in params["args"]]))
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:", "about:")):
                self.problems.append(f"request to {url}")

    def evaluate(self, expression: str):
        """Value of a JavaScript expression."""
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)[
            "result"
        ].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + TIMEOUT_SECONDS
        while not self.evaluate(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}; problems so far: {self.problems}")
            time.sleep(0.1)

    def open(self, path: Path, width: int, dark: bool = False) -> None:
        """Load a report at a width and wait until its plots are drawn."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete' && document.documentElement.dataset.plots !== undefined")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it prints, whatever it looked like on the screen."""
        self.send("Emulation.setEmulatedMedia", media="", features=[])
        path.write_bytes(base64.b64decode(self.send("Page.printToPDF", paperWidth=8.27, paperHeight=11.7)["data"]))


def page_of(path: Path) -> Path:
    """The page in a directory of a run or a comparison, or the given page.

    Raises:
        FileNotFoundError: there is none; Chromium would wait for its plots until the time is over.
    """
    pages = [path / name for name in ("report.html", "compare.html")] if path.is_dir() else [path]
    for page in pages:
        if page.is_file():
            return page
    raise FileNotFoundError(f"no page at {' or '.join(map(str, pages))}")


def main(source: str, folder: str) -> None:
    """Screenshots of one report, with everything the browser complained about."""
    path, out = page_of(Path(source)), Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    with Browser() as tab:
        for width in (400, 1400):
            for dark in (False, True):
                tab.open(path, width, dark)
                overflow = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                plots = tab.evaluate("document.documentElement.dataset.plots")
                tab.screenshot(out / f"{path.parent.name}-{width}-{'dark' if dark else 'light'}.png")
                print(f"{width} px, dark {dark}: {plots} plots, {overflow=}", flush=True)
        tab.pdf(out / f"{path.parent.name}.pdf")
        print("problems:", tab.problems or "none")


if __name__ == "__main__":
    main(*sys.argv[1:])
