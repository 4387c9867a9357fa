#!/usr/bin/env python3
"""The page at `/` in a real browser: real clicks, real uploads, and what a person then sees.

    tests/slow/browser.py [--program FILE] [--model DIR] [--screenshots DIR]

`./test slow` calls it after the programs are built. It needs Python 3.9 (its standard library alone) and Chromium, which
it installs with apt-get where it may and where none is found (FEATHERLIGHT_CHROMIUM names another). Chromium is spoken to
over a pipe in its DevTools protocol, which is an interface of its own: no driver, no port.
"""

import argparse
import base64
import json
import os
import pathlib
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTOS = sorted((ROOT / "tests/data/sign-digits/test").glob("*/*.jpg"))
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


class Service:
    """`featherlight serve` on a free port."""

    def __init__(self, program, model, *flags):
        command = [program, "serve", "--model", model, "--port", "0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = None
        while self.address is None:
            line = self.process.stdout.readline()
            assert line, f"{command} ended before it served"
            if found := re.search(r"http://[0-9.]+:[0-9]+", line):
                self.address = found.group()

    def classify(self, photo, key=None):
        headers = {"content-type": "application/octet-stream", **({"x-api-key": key} if key else {})}
        request = urllib.request.Request(f"{self.address}/classify", photo.read_bytes(), headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["predictions"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, "the service did not end well"


class Browser:
    """Chromium without a window; one message a line of zero bytes, over descriptors 3 and 4."""

    def __init__(self, profile):
        command = [
            chromium(), "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-gpu",
            "--disable-dev-shm-usage", "--force-device-scale-factor=1",
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
        self.buffer, self.last, self.events = b"", 0, []

    def call(self, method, session=None, **parameters):
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.writer, data):]
        while True:
            answer = self.read()
            if answer.get("id") == self.last:
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
        if "method" in message:
            self.events.append(message)
        return message

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Page:
    """One tab on a service's page."""

    def __init__(self, browser, address, width=1200, height=900, scheme="light"):
        self.browser, self.address = browser, address
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network", "DOM"]:
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.setInterceptFileChooserDialog", enabled=True)
        self.call("Page.navigate", url=address + "/")
        self.until("document.readyState === 'complete'")

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

    def click(self, selector):
        """As a person does: with the pointer, in the middle of what is there."""
        self.see(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.see(f"(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector({selector!r}).getBoundingClientRect())")
        for kind in ["mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def choose(self, *photos):
        """Clicks the large button and picks files in the dialogue it opens."""
        before = len(self.events("Page.fileChooserOpened"))
        self.click("#drop")
        end = time.monotonic() + PATIENCE
        while len(opened := self.events("Page.fileChooserOpened")) == before:
            assert time.monotonic() < end, "the button opens no file dialogue"
        files = [str(photo) for photo in photos]
        self.call("DOM.setFileInputFiles", files=files, backendNodeId=opened[-1]["backendNodeId"])

    def drop(self, *photos):
        """Drops files in the middle of the page."""
        data = {"items": [], "files": [str(photo) for photo in photos], "dragOperationsMask": 1}
        for kind in ["dragEnter", "dragOver", "drop"]:
            self.call("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)

    def results(self, count):
        """The results shown, newest first, once all of them are there."""
        self.until(f"document.querySelectorAll('#results > li').length === {count}")
        self.until("[...document.querySelectorAll('#results > li')].every(item => item.querySelector('.bars, .error') && item.querySelector('img').complete)")
        return self.see("""[...document.querySelectorAll('#results > li')].map(item => ({
            text: item.innerText,
            rows: [...item.querySelectorAll('.bars li')].map(bar => [bar.querySelector('b').innerText, bar.querySelector('span').innerText]),
            error: item.querySelector('.error')?.innerText,
            bare: !item.querySelector('img').checkVisibility(),
            picture: item.querySelector('img').naturalWidth,
        }))""")

    def picture(self, folder, name):
        if not folder:
            return
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        (pathlib.Path(folder) / f"{name}.png").write_bytes(base64.b64decode(data))

    def complaints(self):
        """What the browser's console holds against the page."""
        console = [str(event) for event in self.events("Runtime.consoleAPICalled") if event["type"] in ("error", "warning", "assert")]
        thrown = [str(event) for event in self.events("Runtime.exceptionThrown")]
        logged = [event["entry"] for event in self.events("Log.entryAdded")]
        return console + thrown + [str(entry) for entry in logged if entry["level"] in ("error", "warning")]

    def is_sound(self):
        """Asked nobody but its own service, and fits its width."""
        asked = [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]
        outside = [url for url in asked if not url.startswith((self.address + "/", "blob:" + self.address, "data:"))]
        assert any(url == self.address + "/classify?top_k=5" for url in asked), asked
        assert not outside, f"outside requests: {outside}"
        width = self.see("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], f"the page is {width[0]} px wide in a window of {width[1]} px"


def same(shown, predictions):
    """The rows a person sees are the answer a program gets."""
    want = [[row["label"], f"{row['score'] * 100:.1f} %"] for row in predictions]
    assert shown["rows"] == want, f"{shown} is not {want}"
    assert shown["picture"], f"the photo itself is not shown: {shown}"


def an_upload_shows_what_classify_answers(browser, service, folder):
    page = Page(browser, service.address)
    page.until("document.getElementById('about').innerText.includes('labels')")
    page.picture(folder, "empty-light")
    page.choose(PHOTOS[0])
    (shown,) = page.results(1)
    same(shown, service.classify(PHOTOS[0]))
    page.choose(PHOTOS[5], PHOTOS[9])
    for shown, photo in zip(page.results(3), [PHOTOS[9], PHOTOS[5], PHOTOS[0]]):
        assert photo.name in shown["text"], shown
        same(shown, service.classify(photo))
    page.drop(PHOTOS[12])
    same(page.results(4)[0], service.classify(PHOTOS[12]))
    assert not page.complaints(), page.complaints()
    page.is_sound()
    page.picture(folder, "results-light")


def a_damaged_photo_is_explained(browser, service, folder, scratch):
    damaged = scratch / "damaged.jpg"
    damaged.write_bytes(PHOTOS[0].read_bytes()[:900])
    text = scratch / "notes.txt"
    text.write_text("no photo at all")
    page = Page(browser, service.address, width=390, height=844, scheme="dark")
    page.choose(PHOTOS[3])
    page.results(1)
    page.drop(damaged, text)
    shown = page.results(3)
    assert "not a photo" in shown[0]["error"] and "notes.txt" in shown[0]["text"], shown
    assert [item["bare"] for item in shown] == [True, False, False], "no sign of a broken picture"
    assert "damaged" in shown[1]["error"], shown
    same(shown[2], service.classify(PHOTOS[3]))
    # The browser notes the statuses of the two refusals; nothing else may be there.
    other = [line for line in page.complaints() if "415" not in line and "422" not in line]
    assert not other, other
    page.is_sound()
    page.picture(folder, "results-phone-dark")


def a_long_list_and_a_long_name_fit_a_phone(browser, service, folder, scratch):
    long = scratch / ("a_photo_with_a_very_long_name_that_has_no_space_" * 3 + ".jpg")
    shutil.copy(PHOTOS[1], long)
    page = Page(browser, service.address, width=390, height=844)
    page.choose(long)
    same(page.results(1)[0], service.classify(long))
    page.is_sound()
    page.picture(folder, "results-phone-light")


def a_service_with_keys_asks_for_one(browser, service, folder):
    page = Page(browser, service.address, scheme="dark")
    page.until("!document.getElementById('key').hidden")
    page.choose(PHOTOS[0])
    (shown,) = page.results(1)
    assert "API key" in shown["error"], shown
    page.picture(folder, "key-dark")
    page.click("#key input")
    page.call("Input.insertText", text="secret")
    for kind in ["keyDown", "keyUp"]:
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    page.until("document.getElementById('about').innerText.includes('labels')")
    page.choose(PHOTOS[0])
    same(page.results(2)[0], service.classify(PHOTOS[0], key="secret"))
    assert not [line for line in page.complaints() if "401" not in line], page.complaints()
    page.is_sound()


def main():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    demo, golden = ROOT / "models/demo", ROOT / "tests/goldens/beit-tiny"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=target / "debug/featherlight", metavar="FILE")
    parser.add_argument("--model", default=demo if (demo / "config.json").exists() else golden, metavar="DIR")
    parser.add_argument("--screenshots", metavar="DIR", help="leave pictures of the page there, to be looked at")
    options = parser.parse_args()
    assert len(PHOTOS) > 12, "the sample photos are part of the repository"
    with tempfile.TemporaryDirectory() as scratch, Browser(pathlib.Path(scratch) / "profile") as browser:
        scratch = pathlib.Path(scratch)
        with Service(options.program, options.model) as service:
            an_upload_shows_what_classify_answers(browser, service, options.screenshots)
            a_damaged_photo_is_explained(browser, service, options.screenshots, scratch)
            a_long_list_and_a_long_name_fit_a_phone(browser, service, options.screenshots, scratch)
        with Service(options.program, options.model, "--api-key", "secret") as service:
            a_service_with_keys_asks_for_one(browser, service, options.screenshots)
        browser.call("Browser.close")
        browser.process.wait(PATIENCE)
    print("browser: the page shows what the service answers, explains refusals, asks nobody else and fits a phone")


if __name__ == "__main__":
    main()
