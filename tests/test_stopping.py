"""Stop signals: remembered, waited for, and put back."""

import signal
import threading

import pytest

from commandline.stopping import StopRequests


def test_the_first_is_remembered_and_the_second_ctrl_c_raises() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequests() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(60)
        assert stop.exit_code == 143
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_only_those_asked_for() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequests(signal.SIGINT):
        assert signal.getsignal(signal.SIGTERM) == before


def test_waits_no_longer_than_asked() -> None:
    with StopRequests() as stop:
        assert not stop.wait(0.01)
        assert not stop.wait(0.0)


def test_a_signal_that_another_thread_gets_ends_the_wait() -> None:
    """The kernel gives a signal to any thread that does not block it; Python's handlers run on the main one."""
    with StopRequests() as stop:
        thread = threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
        thread.start()
        assert stop.wait()  # without end, if nothing wakes it
        thread.join()
    assert stop.received is signal.SIGTERM


def test_one_inside_another() -> None:
    with StopRequests() as outer:
        with StopRequests(signal.SIGINT) as inner:
            signal.raise_signal(signal.SIGINT)
            assert inner.wait(60)
        assert not outer.requested
        signal.raise_signal(signal.SIGINT)
        assert outer.wait(60)
