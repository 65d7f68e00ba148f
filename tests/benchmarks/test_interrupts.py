"""Interrupts that wait until what was started is known."""

import signal
import subprocess
import sys
import threading

import pytest

from benchmarks.interrupts import INTERRUPTS, held_interrupts, raise_on_interrupt


@pytest.fixture(params=INTERRUPTS)
def number(request):
    before = signal.signal(request.param, signal.default_int_handler)
    yield request.param
    signal.signal(request.param, before)


def test_an_interrupt_inside_comes_after_the_block(number):
    done = []
    with pytest.raises(KeyboardInterrupt), held_interrupts():
        signal.raise_signal(number)
        done.append("the rest of the block")
    assert done
    assert signal.getsignal(number) is signal.default_int_handler


def test_without_an_interrupt_nothing_is_raised(number):
    with held_interrupts():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_what_the_block_starts_can_be_interrupted():
    with held_interrupts():
        process = subprocess.Popen(["sleep", "60"])
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT


def test_another_thread_may_enter_it():
    entered = threading.Event()

    def enter():
        with held_interrupts():
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(10)
    assert entered.is_set()


@pytest.mark.parametrize("at", range(1, 5))
def test_what_is_interrupted_on_the_way_in_or_out_leaves_no_signal_held(number, at, monkeypatch):
    """A handler raises between the two signals: the other one still reaches its handler."""
    set_handler, calls = signal.signal, []

    def interrupted(which, handler):
        calls.append(which)
        before = set_handler(which, handler)
        if len(calls) == at:
            signal.raise_signal(number)
        return before

    other = next(one for one in INTERRUPTS if one is not number)
    before = set_handler(other, signal.default_int_handler)
    monkeypatch.setattr(signal, "signal", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt), held_interrupts():
            pass
        for which in INTERRUPTS:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(which)
    finally:
        set_handler(other, before)


PROGRAM = """
import os, sys
from benchmarks.interrupts import raise_on_interrupt
raise_on_interrupt()
try:
    exec("import os\\nos.kill(os.getpid(), %d)\\nfor _ in range(1000): pass")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("which", INTERRUPTS)
def test_an_interrupt_inside_exec_leaves_the_exit_code_to_the_program(which):
    assert subprocess.run([sys.executable, "-c", PROGRAM % which], check=False).returncode == 130


def test_both_signals_raise(number):
    before = [(one, signal.getsignal(one)) for one in INTERRUPTS]
    try:
        raise_on_interrupt()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    finally:
        for one, handler in before:
            signal.signal(one, handler)
