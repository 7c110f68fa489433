"""A headless Chromium, driven by the DevTools protocol over two pipes. Standard library only; every wait has a deadline.

with Browser() as browser:
    page = browser.page()
    page.open(path); page.evaluate("document.title")
"""
import base64
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--no-first-run", "--mute-audio",
         "--force-color-profile=srgb", "--disable-features=Translate,MediaRouter,OptimizationHints", "--remote-debugging-pipe",
         "--no-default-browser-check", "--password-store=basic", "--use-mock-keychain")
WAIT = 30.0  # seconds any one answer may take on a busy machine
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Enter": 13, "Escape": 27, "Home": 36, "End": 35, " ": 32}
TEXT = {"Enter": "\r", " ": " "}


class Failure(Exception):
    """The browser did not do what it was asked, or not in time."""


def find():
    """The program's path, or None."""
    named = os.environ.get("MOEPLAN_CHROMIUM")
    if named:
        return named if os.access(named, os.X_OK) else None
    return next((p for p in map(shutil.which, NAMES) if p), None)


class Browser:
    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="moeplan-chromium-")
        self.buffer, self.events, self.number, self.answers = b"", [], 0, {}
        to_read, self.to = os.pipe()
        self.back, to_write = os.pipe()
        high = [os.dup(to_read), os.dup(to_write)]
        while min(high) <= 4:  # out of the way of 3 and 4
            high = [os.dup(fd) for fd in high]

        def child():
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        environment = dict(os.environ, HOME=self.folder, XDG_CONFIG_HOME=self.folder, XDG_CACHE_HOME=self.folder)
        self.process = subprocess.Popen([find(), *FLAGS, "--user-data-dir=" + self.folder, "about:blank"], preexec_fn=child,
                                        close_fds=False, start_new_session=True, env=environment, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in (to_read, to_write, *high):
            os.close(fd)
        os.set_blocking(self.back, False)
        return self

    def __exit__(self, *_):
        try:
            self.send("Browser.close", limit=3)
            self.process.wait(3)
        except (Failure, OSError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # all of its helpers: the group is its own
        except ProcessLookupError:
            pass
        self.process.wait()
        os.close(self.to)
        os.close(self.back)
        shutil.rmtree(self.folder, ignore_errors=True)

    def pump(self, deadline):
        """One message, filed under its number or as an event."""
        while b"\0" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.back], [], [], left)[0]:
                raise Failure("no answer in time")
            got = os.read(self.back, 1 << 20)
            if not got:
                raise Failure("the browser has ended")
            self.buffer += got
        line, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(line)
        if "id" in message:
            self.answers[message["id"]] = message
        else:
            self.events.append(message)

    def send(self, method, session=None, limit=WAIT, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data, deadline = json.dumps(message).encode() + b"\0", time.monotonic() + limit
        while data:
            data = data[os.write(self.to, data):]
        while self.number not in self.answers:
            try:
                self.pump(deadline)
            except Failure as failure:
                raise Failure(f"{method}: {failure}") from None
        answer = self.answers.pop(self.number)
        if "error" in answer:
            raise Failure(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def page(self):
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        return Page(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])


class Page:
    def __init__(self, browser, session):
        self.browser, self.session = browser, session
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.send(domain + ".enable")

    def send(self, method, **params):
        return self.browser.send(method, self.session, **params)

    def events(self, *methods):
        return [e for e in self.browser.events if e.get("sessionId") == self.session and e["method"] in methods]

    def wait(self, method, limit=WAIT):
        deadline = time.monotonic() + limit
        while not self.events(method):
            self.browser.pump(deadline)

    def open(self, path, fragment=""):
        """Loads a file; what the page before said is forgotten."""
        self.browser.events = [e for e in self.browser.events if e.get("sessionId") != self.session]
        answer = self.send("Page.navigate", url=pathlib.Path(path).resolve().as_uri() + fragment)
        if answer.get("errorText"):
            raise Failure(answer["errorText"])
        if "loaderId" in answer:  # else the same document, at another fragment
            self.wait("Page.loadEventFired")

    def evaluate(self, expression):
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            detail = answer["exceptionDetails"]
            raise Failure(detail.get("exception", {}).get("description") or detail["text"])
        return answer["result"].get("value")

    def settle(self):
        """Until what was asked for is laid out and drawn."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def size(self, width, height, scale=1, phone=False):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        self.settle()

    def media(self, scheme="light", medium="", motion="reduce"):
        self.send("Emulation.setEmulatedMedia", media=medium, features=[{"name": "prefers-color-scheme", "value": scheme},
                                                                       {"name": "prefers-reduced-motion", "value": motion}])
        self.settle()

    def mouse(self, x, y, kind="mouseMoved"):
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="none" if kind == "mouseMoved" else "left",
                  clickCount=0 if kind == "mouseMoved" else 1)

    def click(self, x, y):
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(x, y, kind)

    def tap(self, x, y):
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, name, n=1):
        for _ in range(n):
            common = {"key": name, "code": name if name != " " else "Space", "windowsVirtualKeyCode": KEYS[name]}
            self.send("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": TEXT[name]} if name in TEXT else {}))
            self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self, path, whole=False, **clip):
        params = {"captureBeyondViewport": whole}
        if clip:
            params["clip"] = {"scale": 1, **clip}
        elif whole:
            box = self.send("Page.getLayoutMetrics")["cssContentSize"]
            params["clip"] = {"x": 0, "y": 0, "width": box["width"], "height": box["height"], "scale": 1}
        pathlib.Path(path).write_bytes(base64.b64decode(self.send("Page.captureScreenshot", **params)["data"]))

    def pdf(self):
        answer = self.send("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        return base64.b64decode(answer["data"])

    def accessibles(self):
        """[{role, name, description, ignored}] of the accessibility tree."""
        out = []
        for node in self.send("Accessibility.getFullAXTree")["nodes"]:
            if not node.get("ignored"):
                out.append({k: node.get(k, {}).get("value", "") for k in ("role", "name", "description")})
        return out

    def errors(self):
        """What the page complained of: exceptions, console errors and warnings, the log (content security policy among it)."""
        out = [e["params"]["exceptionDetails"].get("exception", {}).get("description", "exception") for e in self.events("Runtime.exceptionThrown")]
        out += [str(e["params"]["args"]) for e in self.events("Runtime.consoleAPICalled") if e["params"]["type"] in ("error", "warning", "assert")]
        return out + [e["params"]["entry"]["text"] for e in self.events("Log.entryAdded") if e["params"]["entry"]["level"] in ("error", "warning")]

    def requests(self):
        """Addresses asked for, the page itself aside."""
        asked = [e["params"]["request"]["url"] for e in self.events("Network.requestWillBeSent") if e["params"].get("type") != "Document"]
        return [a for a in asked if not a.startswith("data:")]
