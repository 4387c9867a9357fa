"""Chromium without a window, driven over a pipe in its DevTools protocol: no driver, no port. `browser.py` uses it.

A `Browser` is one process, a `Tab` one page of it. A tab can answer some of its own requests (`stub`), for answers that no
sound service gives when a test wants them.
"""

import base64
import fnmatch
import json
import os
import select
import shutil
import subprocess
import sys
import time

PATIENCE = 60  # seconds: for a loaded machine; nothing here is timed


def chromium():
    """The browser's path; installs it where that is possible."""
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    given = os.environ.get("FEATHERLIGHT_CHROMIUM")
    found = given or next(filter(None, map(shutil.which, names)), None)
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"], check=True)
        found = shutil.which("chromium")
    if not found:
        sys.exit("browser test: no Chromium found; install it, or name one in FEATHERLIGHT_CHROMIUM")
    return found


# What a stub gives for a request that is to stay without an answer.
NEVER = object()


class Browser:
    """One message ends with a zero byte; over descriptors 3 and 4."""

    def __init__(self, profile):
        command = [
            chromium(), "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-gpu",
            "--disable-dev-shm-usage", "--force-device-scale-factor=1", "--disable-background-timer-throttling",
            "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows",
        ]
        if os.geteuid() == 0:
            command.append("--no-sandbox")
        theirs_in, self.writer = os.pipe()
        self.reader, theirs_out = os.pipe()

        def descriptors():
            # First away from 3 and 4, so that neither is overwritten before it is copied.
            high_in, high_out = os.dup(theirs_in), os.dup(theirs_out)
            moved_in, moved_out = os.dup2(high_in, 103), os.dup2(high_out, 104)
            os.dup2(moved_in, 3)
            os.dup2(moved_out, 4)

        self.process = subprocess.Popen(
            command, close_fds=False, preexec_fn=descriptors, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.buffer, self.last, self.events, self.stubs = b"", 0, [], {}

    def send(self, method, session=None, **parameters):
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.writer, data):]
        return self.last

    def call(self, method, session=None, **parameters):
        mine = self.send(method, session, **parameters)
        while True:
            answer = self.read()
            if answer.get("id") == mine:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def read(self, patience=PATIENCE):
        """The next message; events are kept too. None when nothing came."""
        while b"\0" not in self.buffer:
            if not select.select([self.reader], [], [], patience)[0]:
                assert patience < PATIENCE, "the browser does not answer"
                return None
            part = os.read(self.reader, 1 << 20)
            assert part, "the browser has ended"
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(line)
        if message.get("method") == "Fetch.requestPaused":
            self.answer(message["sessionId"], message["params"])
        elif "method" in message:
            self.events.append(message)
        return message

    def answer(self, session, paused):
        """A paused request is answered by its stub, or goes on to the service."""
        request, identity = paused["request"], {"requestId": paused["requestId"]}
        path = "/" + request["url"].split("/", 3)[3].split("?")[0]
        for pattern, stub in self.stubs.get(session, {}).items():
            if fnmatch.fnmatch(path, pattern) and (given := stub(request)) is not None:
                if given is NEVER:
                    return
                status, body, headers = given
                headers = {"content-type": "application/json", **headers}
                text = body if isinstance(body, str) else json.dumps(body)
                self.send(
                    "Fetch.fulfillRequest", session, **identity, responseCode=status,
                    responseHeaders=[{"name": name, "value": value} for name, value in headers.items()],
                    body=base64.b64encode(text.encode()).decode(),
                )
                return
        self.send("Fetch.continueRequest", session, **identity)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.call("Browser.close")
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()


# Before the page's own script: what the policy forbade and what nobody caught is kept, and object URLs are counted.
WATCH = """
performance.setResourceTimingBufferSize(5000);
window.seen = { violations: [], rejections: [], urls: new Set() };
addEventListener('securitypolicyviolation', event => seen.violations.push(event.violatedDirective + ' ' + event.blockedURI));
addEventListener('unhandledrejection', event => seen.rejections.push(String(event.reason)));
const create = URL.createObjectURL, revoke = URL.revokeObjectURL;
URL.createObjectURL = blob => { const url = create(blob); seen.urls.add(url); return url; };
URL.revokeObjectURL = url => { seen.urls.delete(url); revoke(url); };
"""

KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40, "ArrowUp": 38}


class Tab:
    """One page, with what a person can do to it."""

    def __init__(self, browser, address, width=1200, height=900, touch=False, stubs=None, **media):
        self.browser, self.address = browser, address
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.target = target
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network", "DOM"]:
            self.call(f"{domain}.enable")
        browser.stubs[self.session] = stubs or {}
        if stubs:
            self.call("Fetch.enable", patterns=[{"urlPattern": address + pattern + "*"} for pattern in stubs])
        self.width, self.height, self.touch = width, height, touch
        self.size(width, height)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        features = {"prefers-color-scheme": "light", **{name.replace("_", "-"): value for name, value in media.items()}}
        self.call("Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in features.items()])
        self.call("Page.setInterceptFileChooserDialog", enabled=True)
        self.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        self.go("/")

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=self.touch)

    def go(self, path):
        self.call("Page.navigate", url=self.address + path)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def see(self, expression):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def until(self, expression):
        end = time.monotonic() + PATIENCE
        while not (value := self.see(expression)):
            assert time.monotonic() < end, f"in vain: {expression}\n{self.see('document.body.innerText')}"
            time.sleep(0.02)
        return value

    def events(self, method):
        while self.browser.read(patience=0.05):
            pass
        mine = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [event["params"] for event in mine if event["method"] == method]

    def given_up(self, part):
        """Requests so far, with `part` in their address, that the page itself ended before an answer came."""
        ended = {event["requestId"] for event in self.events("Network.loadingFailed") if event["canceled"]}
        return [event for event in self.events("Network.requestWillBeSent") if event["requestId"] in ended and part in event["request"]["url"]]

    def requests(self, part):
        """Requests so far whose address holds `part`."""
        return [event["request"]["url"] for event in self.events("Network.requestWillBeSent") if part in event["request"]["url"]]

    def click(self, selector):
        """As a person does: with the pointer, in the middle of what is there."""
        self.see(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.see(f"(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector({selector!r}).getBoundingClientRect())")
        for kind in ["mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key, shift=False):
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ["keyDown", "keyUp"]:
            typed = {"text": text} if text and kind == "keyDown" else {}
            code = "Space" if key == " " else key
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=KEYS[key], modifiers=8 * shift, **typed)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def focused(self):
        """Who has the keyboard: its id, else its class, else its tag; and the width of the ring around it."""
        return self.see("""(node => [node === document.body ? 'body' : node.id || node.className || node.localName,
            getComputedStyle(node).outlineStyle === 'none' ? 0 : parseFloat(getComputedStyle(node).outlineWidth)])(document.activeElement)""")

    def picker(self, act):
        """Does what opens the file dialogue; returns it."""
        before = len(self.events("Page.fileChooserOpened"))
        act()
        end = time.monotonic() + PATIENCE
        while len(opened := self.events("Page.fileChooserOpened")) == before:
            assert time.monotonic() < end, "no file dialogue was opened"
        return opened[-1]

    def choose(self, *photos, act=None):
        """Clicks the large button and picks files in the dialogue it opens."""
        opened = self.picker(act or (lambda: self.click("#drop")))
        assert opened["mode"] == "selectMultiple", opened
        self.call("DOM.setFileInputFiles", files=[str(photo) for photo in photos], backendNodeId=opened["backendNodeId"])

    def drag(self, *photos, kinds=("dragEnter", "dragOver", "drop")):
        """Drags files to the middle of the page, and drops them there."""
        data = {"items": [], "files": [str(photo) for photo in photos], "dragOperationsMask": 1}
        for kind in kinds:
            self.call("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)

    def paste(self, photo):
        """Pastes a file's bytes."""
        data = base64.b64encode(photo.read_bytes()).decode()
        self.see(f"""(() => {{
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(atob('{data}'), c => c.charCodeAt(0))], {photo.name!r}, {{ type: 'image/jpeg' }}));
            document.dispatchEvent(new ClipboardEvent('paste', {{ clipboardData: transfer, bubbles: true, cancelable: true }}));
        }})()""")

    def picture(self, folder, name, whole=True):
        if not folder:
            return
        if whole:
            # As high as its content: what is out of sight is not laid out.
            self.size(self.width, max(self.height, self.see("document.documentElement.scrollHeight")))
            self.see("new Promise(resolve => setTimeout(resolve, 300))")
            self.size(self.width, max(self.height, self.see("document.documentElement.scrollHeight")))
        data = self.call("Page.captureScreenshot", format="png")["data"]
        self.size(self.width, self.height)
        with open(os.path.join(folder, f"{name}.png"), "wb") as file:
            file.write(base64.b64decode(data))

    def complaints(self, *expected):
        """What the browser's console holds against the page, but for lines with an expected part."""
        console = [str(event) for event in self.events("Runtime.consoleAPICalled") if event["type"] in ("error", "warning", "assert")]
        thrown = [str(event) for event in self.events("Runtime.exceptionThrown")]
        logged = [str(event["entry"]) for event in self.events("Log.entryAdded") if event["entry"]["level"] in ("error", "warning")]
        watched = self.see("[...seen.violations, ...seen.rejections]")
        return [line for line in console + thrown + logged + watched if not any(part in line for part in expected)]
