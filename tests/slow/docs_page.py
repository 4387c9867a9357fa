#!/usr/bin/env python3
"""The page at `/docs` in a real browser: every operation is there, opens, and can be tried.

    tests/slow/docs_page.py [--program FILE] [--screenshots DIR]

`./test slow` calls it after the programs are built. It needs Python 3.9 (its standard library alone) and Chromium
(chromium.py finds or installs it).
"""

import argparse
import json
import pathlib
import tempfile
import urllib.request

import peers
from chromium import Browser, Tab

DEMO = peers.ROOT / "models/demo"
PHOTO = peers.ROOT / "tests/data/sign-digits/test/7/IMG_4355.jpg"


def get(service, path):
    with urllib.request.urlopen(service.address + path, timeout=peers.PATIENCE) as answer:
        return json.load(answer)


def opened(tab, address):
    tab.go(address)
    tab.until("document.querySelectorAll('main details').length > 20")


def is_sound(tab, *expected):
    """Nobody else asked, no complaint of the browser's, and no wider than its window."""
    outside = [url for url in tab.requests("") if not url.startswith((tab.address + "/", "data:"))]
    assert not outside, outside
    assert not tab.complaints(*expected), tab.complaints(*expected)
    width = tab.see("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], f"the page is {width[0]} px wide in a window of {width[1]} px"


def every_operation_opens_with_its_examples(browser, service, folder):
    tab = Tab(browser, service.address, height=1000)
    opened(tab, "/docs")
    tab.picture(folder, "docs-light")
    operations = {
        operation["operationId"]: (method, path, operation)
        for path, methods in get(service, "/openapi.json")["paths"].items()
        for method, operation in methods.items()
    }
    for name, (method, path, operation) in operations.items():
        tab.see(f"document.getElementById({name!r}).querySelector('summary').scrollIntoView({{block: 'center'}})")
        tab.click(f"#{name} > summary")
        text = tab.until(f"document.querySelector('#{name} .inside').innerText")
        for part in [*operation["responses"], "curl", "Send"]:
            assert part in text, f"{name}: no {part}"
        shown = tab.see(f"document.querySelector('#{name} > summary').innerText")
        assert path in shown and method in shown.lower(), shown
        for parameter in operation["parameters"]:
            assert parameter["name"] in text, f"{name}: no {parameter['name']}"
        tab.click(f"#{name} > summary")
    opened(tab, "/docs#classify")
    tab.picture(folder, "docs-open-light")
    is_sound(tab)
    tab.close()


def an_operation_can_be_tried(browser, service, folder):
    tab = Tab(browser, service.address, width=390, height=844, touch=True, prefers_color_scheme="dark")
    opened(tab, "/docs#classify")
    tab.until("document.getElementById('classify').open && !!document.querySelector('#classify form')")
    dialogue = tab.picker(lambda: tab.click("#classify input[type=file]"))
    tab.call("DOM.setFileInputFiles", files=[str(PHOTO)], backendNodeId=dialogue["backendNodeId"])
    tab.see("document.querySelector('#classify input[type=number]').value = 2")
    tab.click("#classify form button")
    shown = json.loads(tab.until("document.querySelector('#classify form [role=status] pre')?.innerText"))
    request = urllib.request.Request(service.address + "/classify?top_k=2", PHOTO.read_bytes())
    with urllib.request.urlopen(request, timeout=peers.PATIENCE) as answer:
        assert shown == json.load(answer), shown
    tab.picture(folder, "docs-phone-dark")
    tab.see("document.getElementById('infer').open = true")
    tab.until("!!document.querySelector('#infer textarea')")
    tab.see("document.querySelector('#infer input').value = 'demo'")
    tab.click("#infer form button")
    shown = json.loads(tab.until("document.querySelector('#infer form [role=status] pre')?.innerText"))
    assert shown["model_name"] == "demo" and shown["outputs"][1]["datatype"] == "BYTES", shown
    is_sound(tab)
    tab.close()


def a_key_is_sent(browser, service):
    tab = Tab(browser, service.address)
    opened(tab, "/docs#info")
    tab.until("!!document.querySelector('#info form')")
    said = "document.querySelector('#info form [role=status]').innerText"
    tab.click("#info form button")
    assert "unauthorized" in tab.until(f"{said}.includes('error') && {said}")
    assert "x-api-key" in tab.see("document.querySelector('#info .command').innerText")
    tab.click("#key input")
    tab.type("secret")
    tab.click("#info form button")
    tab.until(f"{said}.includes('max_queue_size')")
    is_sound(tab, "401")
    tab.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=peers.TARGET / "debug/featherlight", metavar="FILE")
    parser.add_argument("--screenshots", metavar="DIR", help="leave pictures of the page there, to be looked at")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Browser(pathlib.Path(scratch) / "profile") as browser:
        with peers.Service(options.program, "--model", DEMO) as service:
            every_operation_opens_with_its_examples(browser, service, options.screenshots)
            an_operation_can_be_tried(browser, service, options.screenshots)
        with peers.Service(options.program, "--model", DEMO, "--api-key", "secret") as service:
            a_key_is_sent(browser, service)
    print("docs page: every operation opens and can be tried; nobody else is asked")


if __name__ == "__main__":
    main()
