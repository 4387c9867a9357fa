"""What the tests of the page share: a service to look at, what a person sees of its answers, and what is right.

`page_photos.py` and `page_controls.py` use it; `browser.py` runs them.
"""

import decimal
import json
import pathlib
import re
import subprocess
import urllib.request

from chromium import PATIENCE
from page_audit import audit

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTOS = sorted((ROOT / "tests/data/sign-digits/test").glob("*/*.jpg"))
DEMO, TINY = ROOT / "models/demo", ROOT / "tests/goldens/beit-tiny"


class Service:
    """`featherlight serve` on a free port, or on one given."""

    def __init__(self, options, *flags, port=0):
        models = () if "--model" in flags else ("--model", options.model)
        command = [options.program, "serve", *models, "--port", str(port), *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = None
        while self.address is None:
            line = self.process.stdout.readline()
            assert line, f"{command} ended before it served"
            if found := re.search(r"http://[0-9.]+:[0-9]+", line):
                self.address = found.group()

    def classify(self, photo, key=None, model=None):
        headers = {"content-type": "application/octet-stream", **({"x-api-key": key} if key else {})}
        path = f"/classify/{model}" if model else "/classify"
        request = urllib.request.Request(self.address + path, photo.read_bytes(), headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["predictions"]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.process.terminate()
        status = self.process.wait(PATIENCE)
        assert kind or status == 0, "the service did not end well"


def percent(score):
    """A score as the page shows it."""
    exact = decimal.Decimal(score * 100)
    if 0 < exact < decimal.Decimal("0.05"):
        return "< 0.1 %"
    if decimal.Decimal("99.95") <= exact < 100:
        return "> 99.9 %"
    return f"{exact.quantize(decimal.Decimal('0.1'), decimal.ROUND_HALF_UP)} %"


def results(tab, count):
    """The results shown, first to last, once all of them are there."""
    tab.until(f"document.querySelectorAll('#results > li').length === {count}")
    tab.until("[...document.querySelectorAll('#results > li')].every(item => ['done', 'failed'].includes(item.dataset.state))")
    # Text out of sight is laid out later, so that `innerText` does not hold it.
    return tab.see("""[...document.querySelectorAll('#results > li')].map(item => ({
        name: item.querySelector('h3').textContent,
        rows: [...item.querySelectorAll('.bars li')].map(bar => [bar.querySelector('b').textContent, bar.querySelector('span').textContent.replaceAll('\\u00a0', ' ')]),
        shares: [...item.querySelectorAll('.bars i')].map(track => parseFloat(getComputedStyle(track, '::before').width) / track.clientWidth),
        time: item.querySelector('.time').textContent,
        by: item.querySelector('.by').textContent,
        error: item.querySelector('.failure').checkVisibility() ? item.querySelector('.error').textContent.replaceAll('\\u00a0', ' ') : null,
        retry: item.querySelector('.retry').checkVisibility(),
    }))""")


def same(shown, photo, predictions):
    """The rows a person sees are the answer a program gets, and the bars are as long as the scores."""
    assert shown["name"] == photo.name and shown["error"] is None, shown
    assert shown["rows"] == [[row["label"], percent(row["score"])] for row in predictions], f"{shown} is not {predictions}"
    for share, row in zip(shown["shares"], predictions):
        assert abs(share - row["score"]) < 0.01, f"{shown} is not {predictions}"
    assert re.fullmatch(r"\d+\sms|\d+(\.\d)?\ss", shown["time"]), shown


def is_sound(tab, *expected):
    complaints = tab.complaints(*expected)
    assert not complaints, complaints
    audit(tab)


def parallel(tab):
    """Most requests to classify that were under way at one time."""
    spans = tab.see("performance.getEntriesByType('resource').filter(entry => entry.name.includes('/classify')).map(entry => [entry.startTime, entry.responseEnd])")
    return max(sum(start <= other[0] < end for start, end in spans) for other in spans)
