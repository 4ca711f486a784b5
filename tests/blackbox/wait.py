"""Waiting for a thing with a deadline; nothing here sleeps in the hope that something has happened meanwhile."""

import time


def until(what, check, timeout=10.0, every=0.02):
    """The first true value of `check()`; fails with `what` and the last value after `timeout` seconds.

    An exception of `check` counts as "not yet", and is told when time is up.
    """
    deadline = time.monotonic() + timeout
    while True:
        last = None
        try:
            last = check()
            if last:
                return last
        except Exception as error:  # noqa: BLE001: the last one is what the failure shows
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout} s: {what}; last: {last!r}")
        time.sleep(every)


def holds(what, check, seconds, every=0.05):
    """`check()` stays true for `seconds`: for what must not happen, where nothing else marks the end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = check()
        assert value, f"within {seconds} s: {what} broke"
        time.sleep(every)
