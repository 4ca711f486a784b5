"""Signing in on the real page, in a real browser, with keys alone (contract §10): sign-in, renewal, the warning before a time-out and the
time-out, sign-out, wrong password, lock-out, second factor. Issue 4, show 6."""

import json
import time

import pytest

import people
from browser import Browser
from daemon import REPOSITORY
from wait import until

SHOTS = REPOSITORY / "target/test-logs"


@pytest.fixture
def browser(tmp_path, cleanup):
    running = Browser(tmp_path / "browser")
    cleanup(running.close)
    return running


def start(make_daemon, redis_server, **auth):
    return make_daemon(redis_server, auth=people.FAST | auth, journal={"enabled": True}).start()


def sign_in(browser, name="eve", password=people.PASSWORD, code=""):
    """With keys alone: the page has put the focus where one begins."""
    browser.until("the form is there", "document.activeElement?.id === 'username' || document.activeElement?.id === 'password'")
    if browser.ask("document.activeElement.id") == "username":
        browser.type(name)
        browser.key("Tab")
    browser.type(password)
    if code:
        browser.key("Tab")
        browser.type(code)
    browser.key("Enter")


def live(browser):
    browser.until("the page is live", "document.body.dataset.link === 'ok' && !document.getElementById('board').hidden")


def why(browser):
    return browser.ask("document.getElementById('ask-why').textContent")


def cookies(browser):
    found = browser.call("Network.getCookies")["cookies"]
    return {c["name"]: c for c in found if c["name"].startswith("__Host-auditcast")}


def left(browser, daemon, before):
    """Nothing is left of a session: not in the browser, not on the page, not at the server."""
    assert cookies(browser) == {}
    assert browser.ask("document.getElementById('board').hidden")
    for id in ("list", "firing", "tiles", "sources", "linked-body"):
        assert browser.ask(f"document.getElementById('{id}').childElementCount") == 0, id
    kept = browser.ask("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert "session" not in json.loads(kept)[0] and "eyJ" not in kept
    token = before["__Host-auditcast"]["value"]
    answer = until("its token is void", lambda: (a := daemon.api("/alerts", token=token)).status_code == 401 and a, 5)
    assert "blacklisted" in answer.text
    browser.ask("location.reload()")
    browser.until("a reload asks again", "!!document.getElementById('signin') && !document.getElementById('ask').hidden")
    assert daemon.api("/connections").json()["connections"] == [] or until("nobody is connected", lambda: not daemon.api("/connections").json()["connections"])


def test_in_and_out(redis_server, make_daemon, browser):
    daemon = start(make_daemon, redis_server)
    people.add(daemon, "eve")
    daemon.put({"event_type": "sql_injection", "user_id": "1", "message": "seen by who is in"})
    browser.go(daemon.public + "/")
    browser.until("the form is there", "document.activeElement?.id === 'username'")
    browser.screenshot(SHOTS / "signin.png")
    sign_in(browser, password="Wrong-Horse-7")
    browser.until("it says that it was wrong", "document.getElementById('ask-why').textContent.includes('not right')")
    # Where one goes on: the password, and only that, is to be typed again.
    assert browser.ask("document.activeElement.id") == "password" and browser.ask("document.getElementById('password').value") == ""
    assert browser.ask("document.getElementById('username').value") == "eve"
    assert cookies(browser) == {}
    sign_in(browser)
    live(browser)
    browser.wait_text("seen by who is in")
    browser.screenshot(SHOTS / "signed-in.png")

    have = cookies(browser)
    assert set(have) == {"__Host-auditcast", "__Host-auditcast-refresh"}
    assert all(c["httpOnly"] and c["secure"] and c["sameSite"] == "Strict" and c["path"] == "/" for c in have.values()), have
    # No script can see a token: not in what it may read, and not in what it keeps.
    seen = browser.ask("JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, document.documentElement.outerHTML])")
    assert not any(c["value"] in seen for c in have.values()) and "eyJ" not in seen
    browser.until("it says who is in", "document.getElementById('who').textContent === 'eve'")

    browser.ask("location.reload()")
    live(browser)
    daemon.put({"event_type": "sql_injection", "user_id": "1", "message": "live after a reload"})
    browser.wait_text("live after a reload")

    browser.ask("document.getElementById('leave').focus()")
    browser.key("Enter")
    browser.until("it says so", "document.getElementById('ask-why').textContent === 'You are signed out.'")
    until("the cookies are gone", lambda: cookies(browser) == {})
    left(browser, daemon, have)
    # A refusal is an error to the browser's console, and the only one here.
    assert [c for c in browser.complaints if "401" not in c] == [], browser.complaints


def test_who_may_not_see(redis_server, make_daemon, browser):
    daemon = start(make_daemon, redis_server)
    people.add(daemon, "obi", role="OBSERVER")
    browser.go(daemon.public + "/")
    sign_in(browser, "obi")
    browser.until("it says what is lacking", "document.getElementById('ask-why').textContent.startsWith('You are signed in as obi, but')")
    assert "audit.view" in why(browser) and browser.ask("!document.getElementById('leave').hidden")
    browser.screenshot(SHOTS / "not-permitted.png")
    # The older ways in are still there.
    browser.go(f"{daemon.public}/#token={daemon.admin}")
    browser.ask("location.reload()")
    live(browser)
    assert browser.ask("document.getElementById('leave').textContent") == "Forget token"


def test_renewal(redis_server, make_daemon, browser):
    """An access token of 6 s, a long session: the page renews by itself and the feed goes on without a gap."""
    daemon = start(make_daemon, redis_server, access_ttl="6s")
    people.add(daemon, "eve")
    browser.go(daemon.public + "/")
    sign_in(browser)
    live(browser)
    first = cookies(browser)
    browser.ask("window.states = []; new MutationObserver(() => states.push(document.body.dataset.link)).observe(document.body, {attributes: true})")
    since = daemon.metric("auditcast_disconnects_total", code="3005")
    begun, sent = time.time(), 0
    while time.time() < begun + 9:
        sent += 1
        daemon.put({"event_type": "sql_injection", "user_id": "1", "message": f"number {sent} of them"})
        browser.wait_text(f"number {sent} of them", 3)
    renewed = cookies(browser)
    assert all(renewed[name]["value"] != first[name]["value"] for name in first)
    # Never without a connection, and none that the server had to end.
    assert set(browser.ask("states")) <= {"ok"}, browser.ask("states")
    assert daemon.metric("auditcast_disconnects_total", code="3005") == since
    assert browser.ask("document.getElementById('list-count').textContent") == str(sent)
    assert browser.complaints == []


def test_a_time_out_is_warned_of_and_comes(redis_server, make_daemon, browser):
    daemon = start(make_daemon, redis_server, session_timeout="12s")
    people.add(daemon, "eve")
    browser.go(daemon.public + "/")
    sign_in(browser)
    live(browser)
    open_ = "document.getElementById('still').open"
    begun = time.time()
    browser.until("it warns", open_, 12)
    assert 6 < time.time() - begun < 12
    assert browser.ask("document.activeElement.id") == "still-stay"
    browser.screenshot(SHOTS / "still-there.png")
    # Only an answer counts.
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
    assert browser.ask(open_)
    before = cookies(browser)
    browser.key("Enter")
    browser.until("it goes on", f"!{open_}")
    until("it told the server", lambda: cookies(browser)["__Host-auditcast-refresh"]["value"] != before["__Host-auditcast-refresh"]["value"])
    browser.until("it warns again", open_, 12)
    live(browser)
    before = cookies(browser)
    browser.until("it is over", "document.getElementById('ask-why').textContent.includes('nobody used this page')", 6)
    assert not browser.ask(open_)
    until("the cookies are gone", lambda: cookies(browser) == {})
    browser.screenshot(SHOTS / "timed-out.png")
    left(browser, daemon, before)


def test_too_many_guesses_and_the_wait(redis_server, make_daemon, browser):
    daemon = start(make_daemon, redis_server, lockout_failures=2, lockout_first="3s", lockout_longest="3s")
    people.add(daemon, "eve")
    browser.go(daemon.public + "/")
    for _ in range(2):
        sign_in(browser, password="Wrong-Horse-7")
        browser.until("it was wrong", "document.getElementById('ask-why').textContent.includes('not right') && !document.getElementById('signin').dataset.busy")
    sign_in(browser)
    browser.until("it says how long", "document.getElementById('signin-wait').textContent.startsWith('Try again in')")
    assert "too many attempts" in why(browser).lower() and browser.ask("document.getElementById('signin-go').disabled")
    browser.screenshot(SHOTS / "locked-out.png")
    browser.until("the wait is over", "!document.getElementById('signin-go').disabled", 8)
    assert why(browser) == "" and browser.ask("document.getElementById('signin-wait').textContent") == ""
    browser.ask("document.getElementById('password').focus()")
    sign_in(browser)
    live(browser)


def test_a_second_factor(redis_server, make_daemon, browser):
    daemon = start(make_daemon, redis_server)
    people.add(daemon, "eve")
    secret = people.second_factor(daemon, "eve")
    browser.size(390, 844, mobile=True)
    browser.go(daemon.public + "/")
    sign_in(browser)
    browser.until("the password alone is not enough", "document.getElementById('ask-why').textContent.includes('the code')")
    browser.screenshot(SHOTS / "signin-phone.png")
    assert browser.ask("document.documentElement.scrollWidth") <= 390
    sign_in(browser, code=people.code(secret))
    live(browser)
    browser.screenshot(SHOTS / "signed-in-phone.png")
    assert browser.ask("document.documentElement.scrollWidth") <= 390


def test_two_tabs_are_one_session(redis_server, make_daemon, browser):
    daemon = start(make_daemon, redis_server, access_ttl="4s")
    people.add(daemon, "eve")
    browser.go(daemon.public + "/")
    sign_in(browser)
    live(browser)
    other = browser.tab(daemon.public + "/")
    live(other)
    first = cookies(browser)
    until("renewed", lambda: cookies(browser)["__Host-auditcast"]["value"] != first["__Host-auditcast"]["value"], 6)
    second = cookies(browser)
    until("and again", lambda: cookies(browser)["__Host-auditcast"]["value"] != second["__Host-auditcast"]["value"], 6)
    live(browser)
    live(other)
    other.ask("document.getElementById('leave').click()")
    browser.until("the other one leaves too", "document.getElementById('ask-why').textContent.includes('another tab')")
    assert browser.ask("document.getElementById('list').childElementCount") == 0
