"""The time of a search: what was spent, what is left, and what fits."""

import time

import pytest

from trl_ext.search.clock import REPORT, Clock, Cost, covered, predict

DPO = [Cost("dpo", 10.0, 0.5, 2.0, 8.0), Cost("dpo", 12.0, 0.4, 3.0, None)]
KTO = Cost("kto", 5.0, 1.5, None, 6.0)


def test_overlapping_trials_of_two_processes_count_once():
    times = [(0, 10), (5, 12), (20, 30), (22, 25)]
    assert covered(times, before=100) == 12 + 10
    assert covered(times, before=24) == 12 + 4
    assert covered([], before=9) == 0
    seconds = {t / 10 for low, high in times for t in range(low * 10, high * 10)}  # the same, counted one by one
    assert covered(times, before=100) == pytest.approx(len(seconds) / 10)


def test_a_trial_takes_what_the_slowest_part_of_earlier_ones_took():
    assert predict(DPO, "dpo", 100, 2) == 12 + 100 * 0.5 + 2 * 3 + 8
    assert predict([*DPO, KTO], "kto", 100, 0) == 5 + 100 * 1.5 + 8
    assert predict([*DPO, KTO], "ipo", 100, 0) == 12 + 100 * 1.5 + 8  # no trial of this loss yet: the slowest of all
    assert predict([], "dpo", 100, 2) == 0


def test_only_recent_trials_count():
    old = [Cost("dpo", 99.0, 9.0)] + [Cost("dpo", 1.0, 0.1)] * 5
    assert predict(old, "dpo", 10, 0) == 1 + 10 * 0.1


def test_what_earlier_commands_spent_is_gone():
    clock = Clock(1.0, spent=3000.0, began=time.time() - 100)
    assert clock.left == pytest.approx(3600 - 3000 - 100 - REPORT, abs=1)
    assert clock.fits(400) and not clock.fits(600)
    slow = Clock(1.0, spent=3000.0, began=time.time() - 100, costs=[Cost("dpo", 50.0, 0.1)])
    assert slow.left == pytest.approx(clock.left + REPORT - 50, abs=1)


def test_without_hours_everything_fits():
    assert Clock(None).fits(1e9) and Clock(None).fits_any(100, 2)


def test_another_trial_starts_if_the_shortest_one_would_fit():
    clock = Clock(100 / 3600, began=time.time(), costs=DPO)  # 83 s without what the report needs
    assert clock.fits_any(None, 2)
    assert clock.fits_any(80, 2)  # 12 + 40 + 6 + 8
    assert not clock.fits_any(200, 2)


def test_the_last_measurement_is_as_long_as_that_of_the_base_until_there_was_one():
    assert Clock(1.0, whole=7.0).final == 7.0
    assert Clock(1.0, whole=7.0, costs=DPO).final == 8.0
