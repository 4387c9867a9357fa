"""Photos on the page: uploads and their answers, refusals in words, many at once. `browser.py` runs these tests."""

import re
import shutil
import time
import urllib.parse

from chromium import NEVER, PATIENCE, Tab
from page_steps import PHOTOS, ROOT, Service, is_sound, parallel, percent, results, same


def uploads_show_what_classify_answers(browser, service, options, scratch):
    tab = Tab(browser, service.address)
    tab.until("document.getElementById('about').innerText.includes('labels')")
    assert tab.see("document.getElementById('picker').hidden && document.getElementById('key').hidden && document.getElementById('list').hidden")
    tab.picture(options.screenshots, "empty-light")
    tab.see("""window.heard = []; new MutationObserver(() => { const words = document.getElementById('status').textContent; if (words) heard.push(words); })
        .observe(document.getElementById('status'), { childList: true, characterData: true, subtree: true })""")

    tab.choose(PHOTOS[0])
    same(results(tab, 1)[0], PHOTOS[0], service.classify(PHOTOS[0]))
    tab.until("heard.length === 1")
    label, score = service.classify(PHOTOS[0])[0].values()
    assert tab.see("heard[0]").replace("\u00a0", " ") == f"{PHOTOS[0].name}: {label}, {percent(score)}."

    # Several at once are the head of the list, in their own order; they are told as one.
    several = PHOTOS[5:12]
    tab.choose(*several)
    for shown, photo in zip(results(tab, 8), [*several, PHOTOS[0]]):
        same(shown, photo, service.classify(photo))
    tab.until("heard.length === 3")
    assert tab.see("heard.slice(1)") == ["Classifying 7 photos.", "7 photos classified."], tab.see("heard")
    # They were sent four at a time, never more.
    assert parallel(tab) == 4, parallel(tab)

    tab.drag(PHOTOS[12], kinds=["dragEnter", "dragOver"])
    tab.until("!document.getElementById('veil').hidden")
    tab.drag(PHOTOS[12], kinds=["dragOver", "drop"])
    same(results(tab, 9)[0], PHOTOS[12], service.classify(PHOTOS[12]))
    assert tab.see("document.getElementById('veil').hidden")

    tab.paste(PHOTOS[13])
    same(results(tab, 10)[0], PHOTOS[13], service.classify(PHOTOS[13]))

    # What is in sight has its thumbnail, and no file is held in memory for one.
    tab.until("document.querySelector('#results img').naturalWidth > 0 && seen.urls.size === 0")
    assert tab.see("document.querySelector('#results img').naturalHeight") == 288
    is_sound(tab)
    tab.picture(options.screenshots, "results-light")

    tab.click("#clear")
    assert tab.see("document.getElementById('list').hidden && document.querySelectorAll('#results > li').length === 0")
    assert tab.focused()[0] == "drop"
    tab.choose(PHOTOS[1])
    same(results(tab, 1)[0], PHOTOS[1], service.classify(PHOTOS[1]))
    is_sound(tab)
    tab.close()


def refusals_are_in_words(browser, service, options, scratch):
    folder = scratch / "refused"
    folder.mkdir()
    photo = PHOTOS[3].read_bytes()
    files = {
        "damaged.jpg": (photo[:900], "damaged", "422 undecodable_image"),
        "notes.txt": (b"no photo at all", "not a photo in a format", "415 unsupported_media_type"),
        "IMG_0001.HEIC": (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC photo, which the service does not read. Save it as JPEG; on an iPhone", "415 unsupported_media_type"),
        "new.avif": (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf" + bytes(99), "AVIF photo, which the service does not read. Save it as JPEG", "415 unsupported_media_type"),
        "scan.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "JPEG XL photo", "415 unsupported_media_type"),
        "empty.png": (b"", "empty", None),
        # As large as the service takes and one byte; it is told what its limit is, and sends nothing.
        "large.jpg": (photo + bytes(300_001 - len(photo)), "has 300,001 bytes; the service takes 300,000 bytes at most", None),
    }
    for name, (data, _, _) in files.items():
        (folder / name).write_bytes(data)
    with Service(options, "--max-body-bytes", "300000") as small:
        tab = Tab(browser, small.address, prefers_color_scheme="dark")
        tab.until("document.getElementById('formats').innerText.includes('293')")
        tab.drag(*(folder / name for name in files))
        for shown, (name, (_, words, _)) in zip(results(tab, len(files)), files.items()):
            assert shown["name"] == name and words in shown["error"], shown
            assert not shown["retry"], "the same file again would be refused again"
        # The service's own words are one step away.
        for index, (_, _, said) in enumerate(files.values()):
            details = f"document.querySelectorAll('details')[{index}]"
            assert tab.see(f"{details}.hidden") == (said is None)
            if said:
                tab.see(f"{details}.open = true")
                assert tab.see(f"{details}.innerText").split("\n")[-3].startswith(said), tab.see(f"{details}.innerText")
        # Half a photo is shown as far as it goes; the rest by their kind.
        kinds = tab.until("(kinds => kinds.filter(Boolean).length === 5 && kinds)([...document.querySelectorAll('.kind')].map(kind => kind.hidden ? '' : kind.innerText))")
        assert kinds == ["", "TXT", "HEIC", "AVIF", "JXL", "PNG", ""], kinds
        assert len([url for url in tab.requests("/classify")]) == 5, "the empty and the large one are not sent"
        is_sound(tab, "415", "422")
        tab.picture(options.screenshots, "refused-dark")
        tab.close()


def a_busy_service_is_asked_again_when_it_said(browser, service, options, scratch):
    refusals = [2]

    def busy(request):
        if not refusals:
            return None
        wait = refusals.pop()
        return 503, {"error": {"code": "overloaded", "message": "the service is at its limit", "request_id": "of-the-test"}}, {"retry-after": str(wait)}

    tab = Tab(browser, service.address, stubs={"/classify": busy})
    tab.choose(PHOTOS[0])
    (shown,) = results(tab, 1)
    assert "come back in 2 s" in shown["error"] and shown["retry"], shown
    assert "of-the-test" in tab.see("document.querySelector('details p').textContent")
    tab.see("document.querySelector('.retry').focus()")
    tab.press("Enter")
    # The photo, and those chosen now, wait as long as the service asked; the line above the list says so.
    tab.until("/going on in/.test(document.getElementById('tally').innerText)")
    tab.choose(PHOTOS[1])
    for shown, photo in zip(results(tab, 2), [PHOTOS[1], PHOTOS[0]]):
        same(shown, photo, service.classify(photo))
    first, *later = tab.see("performance.getEntriesByType('resource').filter(entry => entry.name.includes('/classify')).map(entry => [entry.startTime, entry.responseEnd])")
    assert len(later) == 2 and all(start - first[1] > 1900 for start, _ in later), (first, later)
    is_sound(tab, "503")

    # Many that failed are tried again with one button.
    refusals[:] = [1, 1, 1]
    tab.choose(*PHOTOS[2:6])
    tab.until("document.getElementById('again').innerText === 'Try 3 again'")
    tab.picture(options.screenshots, "busy-light")
    tab.click("#again")
    for shown, photo in zip(results(tab, 6), PHOTOS[2:6]):
        same(shown, photo, service.classify(photo))
    assert tab.see("document.getElementById('again').hidden")
    tab.close()


def every_error_has_words_and_a_retry_where_it_helps(browser, service, options, scratch):
    codes = re.findall(r"^\| \d+ \| ([^|]*) \|", (ROOT / "docs/API.md").read_text(), re.M)
    codes = [code for row in codes for code in re.findall(r"`(\w+)`", row)]
    assert "overloaded" in codes and "deadline_exceeded" in codes, codes
    given = []

    def refuse(request):
        return 500, {"error": {"code": given[-1], "message": "in the service's words", "request_id": "1"}}, {}

    tab = Tab(browser, service.address, width=320, height=640, touch=True, stubs={"/classify": refuse})
    again = {"request_timeout", "overloaded", "not_ready", "shutting_down", "device_unavailable", "deadline_exceeded", "internal"}
    # The page sends one photo a request and no address, and reloads nothing; a key has a test of its own.
    others = {"unauthorized", "reload_failed", "url_not_allowed", "url_unreachable", "too_many_photos", "uri_too_long"}
    for index, code in enumerate(code for code in codes if code not in others):
        given.append(code)
        tab.choose(PHOTOS[0])
        shown = results(tab, index + 1)[0]
        assert shown["error"] and "in the service's words" not in shown["error"], f"{code} has no words of the page: {shown}"
        assert shown["retry"] == (code in again), (code, shown)
    given.append("a_code_of_tomorrow")
    tab.choose(PHOTOS[0])
    assert results(tab, len(given))[0]["error"] == "in the service's words"
    is_sound(tab, "status of 500")
    tab.picture(options.screenshots, "errors-phone")
    tab.close()

    # Something in between that answers for the service, not in its language.
    tab = Tab(browser, service.address, stubs={"/classify": lambda request: (502, "<html>Bad Gateway", {"content-type": "text/html"})})
    tab.choose(PHOTOS[0])
    (shown,) = results(tab, 1)
    assert "not an answer of this service" in shown["error"] and shown["retry"], shown
    is_sound(tab, "status of 502")
    tab.close()


def an_absent_service_is_told_and_found_again(browser, service, options, scratch):
    with Service(options) as first:
        tab = Tab(browser, first.address)
        tab.until("document.getElementById('about').innerText.includes('labels') && !document.getElementById('strip').hidden")
    tab.choose(PHOTOS[0])
    (shown,) = results(tab, 1)
    assert "does not answer" in shown["error"] and shown["retry"], shown
    tab.until("document.getElementById('rate').innerText === '–'")
    with Service(options, port=urllib.parse.urlsplit(first.address).port) as second:
        tab.click(".retry")
        same(results(tab, 1)[0], PHOTOS[0], second.classify(PHOTOS[0]))
        tab.until("/^[0-9]/.test(document.getElementById('rate').innerText)")
        is_sound(tab, "ERR_CONNECTION")
    tab.close()


def any_answer_looks_right(browser, service, options, scratch):
    answers = {
        "one label": [("defect", 0.41)],
        "sigmoid": [("beach", 0.97), ("sunset", 0.91), ("people", 0.64), ("boat", 0.5), ("dog", 0.03)],
        "long labels": [
            ("great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias", 0.9996),
            ("a_label_without_any_space_that_goes_on_and_on_" * 4, 0.0003), ("سمكة ذهبية", 0.00001), ("<b>not bold</b>", 0.0), ("tench", 0.0),
        ],
        "certain": [("7", 1.0), ("1", 0.0)],
    }
    current = []
    reply = lambda request: (200, {"model": "m", "predictions": [{"label": label, "score": score} for label, score in current[-1]]}, {})
    phone = Tab(browser, service.address, width=320, height=640, touch=True, stubs={"/classify": reply})
    assert "Choose or take photos" in phone.see("document.getElementById('drop').innerText")
    for index, (name, answer) in enumerate(answers.items()):
        current.append(answer)
        phone.choose(PHOTOS[index])
        shown = results(phone, index + 1)[0]
        same(shown, PHOTOS[index], [{"label": label, "score": score} for label, score in answer])
    is_sound(phone)
    phone.picture(options.screenshots, "answers-phone")
    phone.close()

    long = scratch / ("a_photo_with_a_very_long_name_that_has_no_space_" * 3 + ".jpg")
    shutil.copy(PHOTOS[1], long)
    for scheme in ["light", "dark"]:
        tab = Tab(browser, service.address, width=320, height=640, touch=True, prefers_color_scheme=scheme)
        tab.choose(long)
        same(results(tab, 1)[0], long, service.classify(long))
        is_sound(tab)
        tab.picture(options.screenshots, f"results-phone-{scheme}")
        tab.close()


def two_hundred_photos_do_not_hold_the_page(browser, service, options, scratch):
    folder = scratch / "many"
    folder.mkdir()
    for index in range(200):
        shutil.copy(PHOTOS[index % len(PHOTOS)], folder / f"photo{index}.jpg")
    (folder / "list.csv").write_text("not a photo, and not sent")
    tab = Tab(browser, service.address, prefers_color_scheme="dark")
    tab.drag(folder)
    shown = results(tab, 200)
    # In the order a person counts in: photo2 before photo10.
    assert [entry["name"] for entry in shown] == [f"photo{index}.jpg" for index in range(200)], [entry["name"] for entry in shown][:20]
    for index in [0, 99, 199]:
        same(shown[index], folder / f"photo{index}.jpg", service.classify(folder / f"photo{index}.jpg"))
    assert parallel(tab) <= 4
    assert re.fullmatch(r"200 photos in .*", tab.see("document.getElementById('tally').innerText"))
    # Thumbnails are drawn where somebody looks.
    drawn = "document.querySelectorAll('.thumb:not([hidden])').length"
    assert 0 < tab.until(drawn) < 60, tab.see(drawn)
    tab.see("document.querySelector('#results > li:last-child').scrollIntoView()")
    tab.until("document.querySelector('#results > li:last-child img').naturalWidth > 0 && seen.urls.size === 0")
    is_sound(tab)
    tab.click("#clear")
    tab.drag(folder)
    tab.until("document.querySelectorAll('[data-state=done]').length > 3")
    tab.click("#clear")
    tab.choose(PHOTOS[0])
    same(results(tab, 1)[0], PHOTOS[0], service.classify(PHOTOS[0]))
    assert tab.see("document.getElementById('tally').innerText") == "1 photo"
    is_sound(tab)
    tab.close()


def what_is_cleared_is_given_up(browser, service, options, scratch):
    answered = [False]
    tab = Tab(browser, service.address, stubs={"/classify": lambda request: None if answered[0] else NEVER})
    tab.choose(*PHOTOS[:6])
    tab.until("document.querySelectorAll('[data-state=sending]').length === 4 && document.querySelectorAll('[data-state=waiting]').length === 2")
    tab.click("#clear")
    end = time.monotonic() + PATIENCE
    while len(tab.given_up("/classify")) < 4:
        assert time.monotonic() < end, "the service still works for nobody"
    answered[0] = True
    tab.choose(PHOTOS[7])
    same(results(tab, 1)[0], PHOTOS[7], service.classify(PHOTOS[7]))
    assert len(tab.requests("/classify")) == 5, "the two that waited were never sent"
    is_sound(tab)
    tab.close()


TESTS = [
    uploads_show_what_classify_answers,
    refusals_are_in_words,
    a_busy_service_is_asked_again_when_it_said,
    every_error_has_words_and_a_retry_where_it_helps,
    an_absent_service_is_told_and_found_again,
    any_answer_looks_right,
    two_hundred_photos_do_not_hold_the_page,
    what_is_cleared_is_given_up,
]
