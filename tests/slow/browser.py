#!/usr/bin/env python3
"""The page at `/` in a real browser: real clicks, real keys, real uploads, and what a person then sees.

    tests/slow/browser.py [--program FILE] [--model DIR] [--screenshots DIR] [--only NAME]

`./test slow` calls it after the programs are built. It needs Python 3.9 (its standard library alone) and Chromium
(chromium.py finds or installs it). The tests are in page_photos.py and page_controls.py; what must hold in every state of the
page is in page_audit.py.
"""

import argparse
import os
import pathlib
import tempfile

import page_controls
import page_photos
from chromium import Browser
from page_steps import DEMO, PHOTOS, ROOT, TINY, Service


def main():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=target / "debug/featherlight", metavar="FILE")
    parser.add_argument("--model", default=DEMO if (DEMO / "config.json").exists() else TINY, metavar="DIR")
    parser.add_argument("--screenshots", metavar="DIR", help="leave pictures of the page there, to be looked at")
    parser.add_argument("--only", default="", metavar="NAME", help="run the tests whose names hold this")
    options = parser.parse_args()
    assert len(PHOTOS) > 14, "the sample photos are part of the repository"
    with tempfile.TemporaryDirectory() as scratch, Browser(pathlib.Path(scratch) / "profile") as browser:
        with Service(options) as service:
            for test in page_photos.TESTS + page_controls.TESTS:
                if options.only in test.__name__:
                    test(browser, service, options, pathlib.Path(scratch))
                    print(f"browser: {test.__name__.replace('_', ' ')}", flush=True)


if __name__ == "__main__":
    main()
