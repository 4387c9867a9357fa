"""The page around the photos: keyboard, key, models, live strip, other ways of seeing. `browser.py` runs these tests."""

import time

from chromium import PATIENCE, Tab
from page_audit import contrast, fits
from page_steps import DEMO, PHOTOS, TINY, Service, is_sound, percent, results, same


def the_keyboard_alone_does_everything(browser, service, options, scratch):
    damaged = scratch / "half.jpg"
    damaged.write_bytes(PHOTOS[0].read_bytes()[:900])
    tab = Tab(browser, service.address)
    tab.until("document.getElementById('about').innerText.includes('labels')")

    def walk():
        """Tab after tab until the keyboard leaves the page; everything that is reached shows that it is."""
        stops = []
        while len(stops) < 40:
            tab.press("Tab")
            name, ring = tab.focused()
            if name == "body":
                return stops
            assert ring >= 2, f"{name} does not show that it has the keyboard"
            contrast(tab)
            stops.append(name)
        raise AssertionError(stops)

    assert walk() == ["skip", "a", "drop", "pre", "copy"]
    tab.press("Tab")
    tab.press("Enter")
    tab.until("document.activeElement.id === 'drop'")
    tab.choose(PHOTOS[0], act=lambda: tab.press("Enter"))
    results(tab, 1)
    tab.choose(damaged, act=lambda: tab.press(" "))
    results(tab, 2)
    tab.until("[...document.querySelectorAll('.thumb')].every(thumb => thumb.checkVisibility())")
    # From the top on: the keyboard stands on the first of all.
    tab.see("document.querySelector('.skip').focus()")
    assert walk() == ["a", "drop", "clear", "skip", "thumb", "summary", "thumb", "pre", "copy"]

    tab.see("document.getElementById('drop').focus()")
    for _ in range(3):
        tab.press("Tab")
    tab.press("Enter")
    tab.until("document.getElementById('preview').open && document.getElementById('preview-photo').naturalWidth > 0")
    tab.picture(options.screenshots, "preview-light", whole=False)
    tab.press("Escape")
    tab.until("!document.getElementById('preview').open")
    assert tab.focused()[0] == "thumb"
    tab.press("Tab")
    tab.press(" ")
    tab.until("document.querySelector('details').open")
    tab.press("Escape")
    tab.until("!document.querySelector('details').open")
    assert tab.focused()[0] == "summary"
    # Past two hundred results in one step.
    tab.see("document.getElementById('clear').focus()")
    tab.press("Tab")
    tab.press("Enter")
    tab.press("Tab")
    assert tab.focused()[0] == "pre", tab.focused()
    tab.press("Tab")
    tab.press("Enter")
    tab.until("document.getElementById('copy').innerText === 'Copied'")
    tab.see("document.getElementById('clear').focus()")
    tab.press("Enter")
    tab.until("document.getElementById('list').hidden")
    assert tab.focused()[0] == "drop"
    is_sound(tab, "422")
    tab.close()


def a_key_is_asked_for_and_kept_in_memory_alone(browser, service, options, scratch):
    with Service(options, "--api-key", "only-this-one") as closed:
        tab = Tab(browser, closed.address, prefers_color_scheme="dark")
        tab.until("!document.getElementById('key').hidden")
        tab.choose(*PHOTOS[:2])
        for shown in results(tab, 2):
            assert "API key" in shown["error"], shown

        def enter(key):
            tab.see("document.getElementById('key-text').focus(); document.getElementById('key-text').select()")
            tab.type(key)
            tab.press("Enter")

        for wrong in ["another", "schlüssel"]:
            enter(wrong)
            tab.until("document.getElementById('key-note').innerText.includes('does not know')")
            assert tab.see("document.getElementById('key-text').getAttribute('aria-invalid')") == "true"
        tab.picture(options.screenshots, "key-dark")
        is_sound(tab, "401")
        enter("only-this-one")
        # What was refused for want of the key is sent again by itself.
        tab.until("document.getElementById('key').hidden")
        for shown, photo in zip(results(tab, 2), PHOTOS):
            same(shown, photo, closed.classify(photo, key="only-this-one"))
        everywhere = "document.documentElement.outerHTML + JSON.stringify(sessionStorage) + JSON.stringify(localStorage) + document.cookie + location.href + document.getElementById('key-text').value"
        assert "only-this-one" not in tab.see(everywhere)
        assert '-H "authorization: Bearer $FEATHERLIGHT_API_KEY"' in tab.see("document.getElementById('curl').innerText")
        is_sound(tab, "401")
        tab.click("#key-forget")
        tab.until("!document.getElementById('key').hidden && document.activeElement.id === 'key-text'")
        tab.choose(PHOTOS[2])
        assert "API key" in results(tab, 3)[0]["error"]
        tab.close()


def the_picked_model_answers(browser, service, options, scratch):
    with Service(options, "--model", f"digits={DEMO}", "--model", f"tiny={TINY}") as both:
        tab = Tab(browser, both.address)
        tab.until("!document.getElementById('picker').hidden")
        assert tab.see("[...document.getElementById('model').options].map(option => option.text)") == ["digits", "tiny"]
        tab.choose(PHOTOS[0])
        (shown,) = results(tab, 1)
        same(shown, PHOTOS[0], both.classify(PHOTOS[0], model="digits"))
        assert shown["by"] == "digits"
        assert tab.see("document.getElementById('curl').innerText").endswith(f"{both.address}/classify/digits")

        tab.see("document.getElementById('model').focus()")
        tab.press("ArrowDown")
        tab.until("document.getElementById('model').value === 'tiny'")
        assert "7 labels" in tab.see("document.getElementById('model-facts').innerText")
        assert tab.see("document.getElementById('curl').innerText").endswith(f"{both.address}/classify/tiny")
        tab.choose(PHOTOS[1])
        shown = results(tab, 2)
        same(shown[0], PHOTOS[1], both.classify(PHOTOS[1], model="tiny"))
        assert shown[0]["rows"] != [[row["label"], percent(row["score"])] for row in both.classify(PHOTOS[1])], "the two models differ"
        assert [entry["by"] for entry in shown] == ["tiny", "digits"]
        tab.picture(options.screenshots, "picker-light")
        # The photo that the other one answered, by this one.
        tab.click("#compare")
        tab.until("document.getElementById('compare').hidden")
        same(results(tab, 2)[1], PHOTOS[0], both.classify(PHOTOS[0], model="tiny"))
        is_sound(tab)

        tab.go("/")
        tab.until("document.getElementById('model').value === 'tiny'")
        tab.close()
        other = Tab(browser, both.address, width=320, height=640, touch=True)
        other.until("document.getElementById('model').value === 'digits'")
        other.choose(PHOTOS[0])
        results(other, 1)
        other.see("document.getElementById('model').value = 'tiny'; document.getElementById('model').dispatchEvent(new Event('change'))")
        other.until("!document.getElementById('compare').hidden")
        is_sound(other)
        other.picture(options.screenshots, "picker-phone")
        other.close()

    # A service from before there was `/models` still tells its model.
    alone = Tab(browser, service.address, stubs={"/models": lambda request: (404, {"error": {"code": "not_found", "message": ""}}, {})})
    alone.until("document.getElementById('about').innerText.includes('labels')")
    alone.choose(PHOTOS[0])
    same(results(alone, 1)[0], PHOTOS[0], service.classify(PHOTOS[0]))
    is_sound(alone, "404")
    alone.close()

    # One whose models are still being loaded says so, and is found when they are.
    loading = [True]
    stub = lambda request: (503, {"error": {"code": "not_ready", "message": ""}}, {}) if loading[0] else None
    early = Tab(browser, service.address, stubs={"/models": stub, "/info": stub})
    early.until("document.getElementById('about').innerText === 'The model is being loaded.'")
    loading[0] = False
    early.until("document.getElementById('about').innerText.includes('labels')")
    early.close()


STRIP = "Object.fromEntries(['rate', 'batch', 'queue', 'flight', 'median'].map(id => [id, document.getElementById(id).innerText.replaceAll('\\u00a0', ' ')]))"


def the_strip_shows_figures_that_move_and_may_be_missing(browser, service, options, scratch):
    tab = Tab(browser, service.address)
    tab.until("!document.getElementById('strip').hidden")
    assert tab.see(STRIP)["rate"] == "0", tab.see(STRIP)
    tab.choose(*PHOTOS[:12])
    results(tab, 12)
    tab.until("parseFloat(document.getElementById('rate').innerText) > 0 && parseFloat(document.getElementById('batch').innerText) >= 1")
    tab.until("/^[0-9]+ ms$|^[0-9.]+ s$/.test(document.getElementById('median').innerText.replace('\\u00a0', ' '))")
    assert tab.see("document.querySelector('#spark .line').getAttribute('d')").startswith("M")
    tab.until("document.getElementById('rate').innerText === '0'")
    # Out of sight it asks nothing; back in sight it goes on.
    show = "Object.defineProperty(document, 'hidden', { configurable: true, get: () => %s }); document.dispatchEvent(new Event('visibilitychange'))"
    tab.see(show % "true")
    time.sleep(1.2)
    polls = len(tab.requests("/metrics"))
    time.sleep(2.5)
    assert len(tab.requests("/metrics")) == polls, "it polls while nobody looks"
    tab.see(show % "false")
    end = time.monotonic() + PATIENCE
    while len(tab.requests("/metrics")) == polls:
        assert time.monotonic() < end, "it polls no more"
    is_sound(tab)
    tab.close()

    # Known figures: 12 photos in 4 batches and 10 answers between 25 and 50 ms from poll to poll; then it starts anew.
    turns = [0]

    def figures(request):
        turns[0] = 0 if turns[0] > 5 else turns[0] + 1
        bucket = 'featherlight_http_request_duration_seconds_bucket{route="/classify/{model}",le="%s"} %d\n'
        return 200, (
            f"featherlight_predictions_total {12 * turns[0]}\nfeatherlight_batch_size_sum {12 * turns[0]}\nfeatherlight_batch_size_count {4 * turns[0]}\n"
            "featherlight_queue_size 1234\nfeatherlight_http_requests_in_flight 6\n"
            + "".join(bucket % (edge, 10 * turns[0] * (edge not in ("0.01", "0.025"))) for edge in ["0.01", "0.025", "0.05", "+Inf"])
        ), {"content-type": "text/plain"}

    tab = Tab(browser, service.address, stubs={"/metrics": figures})
    seen = []
    tab.until("document.getElementById('batch').innerText !== '–'")
    for _ in range(80):
        seen.append(tab.see(STRIP))
        time.sleep(0.1)
    assert {entry["queue"] for entry in seen} == {"1,234"} and {entry["flight"] for entry in seen} == {"5"}, seen
    assert {entry["batch"] for entry in seen} <= {"3.0", "–"} and {entry["median"] for entry in seen} <= {"38 ms", "–"}, seen
    assert "3.0" in {entry["batch"] for entry in seen} and all(float(entry["rate"]) >= 0 for entry in seen), seen
    is_sound(tab)
    tab.close()

    answers = [(404, "{}"), (401, "{}"), (200, "hello"), (200, "")]
    for status, text in answers:
        tab = Tab(browser, service.address, stubs={"/metrics": lambda request, status=status, text=text: (status, text, {"content-type": "text/plain"})})
        tab.until("document.getElementById('about').innerText.includes('labels')")
        tab.choose(PHOTOS[0])
        same(results(tab, 1)[0], PHOTOS[0], service.classify(PHOTOS[0]))
        assert tab.see("document.getElementById('strip').hidden"), (status, text)
        is_sound(tab, f"status of {status}")
        tab.close()


def other_ways_of_seeing(browser, service, options, scratch):
    tab = Tab(browser, service.address, forced_colors="active", prefers_reduced_motion="reduce")
    tab.choose(PHOTOS[0])
    results(tab, 1)
    tab.until("document.querySelector('.thumb').checkVisibility()")
    fill, track = tab.see("(track => [getComputedStyle(track, '::before').backgroundColor, getComputedStyle(track).backgroundColor])(document.querySelector('.bars i'))")
    assert fill != track and "0)" not in fill, "bars vanish in forced colours"
    assert tab.see("[...document.querySelectorAll('*')].every(node => ['0s', ''].includes(getComputedStyle(node).transitionDuration) && getComputedStyle(node).animationName === 'none')")
    fits(tab)
    tab.picture(options.screenshots, "forced-colours")
    tab.close()
    # The policy is there, and what it forbids is noticed here.
    tab = Tab(browser, service.address)
    tab.see("document.body.append(Object.assign(document.createElement('img'), { src: 'http://127.0.0.2/outside.png', alt: 'outside' }))")
    tab.until("seen.violations.length > 0")
    assert tab.see("seen.violations[0]").startswith("img-src") and tab.complaints()
    assert "TrustedScript" in tab.see("(() => { try { document.createElement('script').textContent = '1'; } catch (error) { return error.message; } })()")
    tab.close()


TESTS = [
    the_keyboard_alone_does_everything,
    a_key_is_asked_for_and_kept_in_memory_alone,
    the_picked_model_answers,
    the_strip_shows_figures_that_move_and_may_be_missing,
    other_ways_of_seeing,
]
