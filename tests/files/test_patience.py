"""How long something far away is waited for, on a clock of the test's own."""

from __future__ import annotations

import email.utils

import pytest

from exporter.files import patience
from exporter.files.patience import BUSY, Patience


@pytest.fixture
def clock(monkeypatch):
    """Time stands still unless it is set; what is random is in the middle."""
    now = [1000.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience.time, "time", lambda: 1_700_000_000.0)
    monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)
    return now


def waited(clock, one, attempt, asked=None):
    seconds = one.delay(attempt, asked)
    clock[0] += seconds or 0
    return seconds


def test_each_attempt_waits_twice_as_long_up_to_eight_seconds_and_thirty_in_all(clock):
    one = Patience()
    assert [waited(clock, one, attempt) for attempt in range(9)] == [0.25, 0.5, 1, 2, 4, 8, 8, None, None]
    assert waited(clock, one, 4) == 4, "there is time for a shorter wait"
    assert waited(clock, one, 2) == 1
    assert waited(clock, one, 1) == 0.5
    assert waited(clock, one, 0) == 0.25
    assert waited(clock, one, 2) is None
    assert waited(clock, one, 1, "0.4") == 0.5, "to the thirtieth second"
    assert waited(clock, one, 0) is None


def test_some_of_it_is_chance(monkeypatch):
    found = {Patience().delay(0) for _ in range(30)}
    assert len(found) > 5
    assert all(0.1875 <= seconds <= 0.3125 for seconds in found)


def test_requests_that_wait_at_the_same_time_count_once(clock):
    one = Patience()
    assert [one.delay(5) for _ in range(10)] == [8] * 10
    clock[0] += 4
    assert one.delay(5) == 8  # 4 seconds more
    clock[0] += 8
    assert [waited(clock, one, 5) for _ in range(3)] == [8, 8, None]
    assert waited(clock, one, 3) == 2
    assert waited(clock, one, 0) is None


@pytest.mark.parametrize(("asked", "seconds"), [
    (None, 0.25), ("0", 0.25), ("2", 2), (" 7 ", 7), ("30", 30), ("31", None), ("soon", 0.25), ("", 0.25), ("-5", 0.25),
    (email.utils.formatdate(1_700_000_012, usegmt=True), 12), (email.utils.formatdate(1_699_999_000, usegmt=True), 0.25),
    (email.utils.formatdate(1_700_009_000, usegmt=True), None)])
def test_what_the_server_asks_for(clock, asked, seconds):
    assert Patience().delay(0, asked) == seconds


def test_what_is_worth_another_attempt():
    assert BUSY == (408, 425, 429, 502, 503, 504)
