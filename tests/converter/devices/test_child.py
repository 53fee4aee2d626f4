from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from converter.devices.child import ChildDied, WorkFailed, in_child
from converter.errors import AnemoneError


def doubled(array):
    return os.getpid(), 2 * array


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def left(status):
    os._exit(status)


def refused():
    raise AnemoneError("no such thing; accepted: another")


def broken():
    return {}["key"]


def test_work_is_done_in_another_process():
    process, actual = in_child(doubled, np.arange(3))
    assert process != os.getpid()
    np.testing.assert_array_equal(actual, [0, 2, 4])


def test_a_process_that_is_killed_is_told_and_not_waited_for():
    with pytest.raises(ChildDied, match=r"the process was ended by SIGKILL"):
        in_child(killed)
    with pytest.raises(ChildDied, match="the process ended with status 3"):
        in_child(left, 3)


def test_what_the_work_raises_is_told():
    with pytest.raises(WorkFailed, match=r"^no such thing; accepted: another$"):
        in_child(refused)
    with pytest.raises(WorkFailed, match=r"^KeyError: 'key'$"):
        in_child(broken)


@pytest.mark.slow
def test_a_process_that_does_not_come_to_an_end_is_ended():
    begun = time.monotonic()
    with pytest.raises(ChildDied, match="no answer after 1 s"):
        in_child(time.sleep, 600, limit_seconds=1)
    assert time.monotonic() - begun < 60
