"""Interrupts that wait until what was started is known."""

import signal
import subprocess
import threading

import pytest

from benchmarks.interrupts import INTERRUPTS, held_interrupts


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
