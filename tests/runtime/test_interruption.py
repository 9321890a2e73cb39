"""Signals ask to stop; loaders go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from torch.utils.data import DataLoader

from mvqkd.runtime.interruption import catch_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_asks_to_stop(number):
    before = signal.getsignal(number)
    with catch_signals() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
        assert interruption.signal_name == signal.Signals(number).name
    assert signal.getsignal(number) is before


def test_second_ctrl_c_stops_at_once():
    with catch_signals(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_leaves_loader_processes_alive():
    with catch_signals() as interruption:
        items = iter(DataLoader(range(20), batch_size=None, num_workers=1))
        got = [next(items)]
        for process in items._workers:
            os.kill(process.pid, signal.SIGINT)
        assert not interruption.requested
        assert got + list(items) == list(range(20))


def test_handlers_have_a_stack_of_their_own():
    """In a process of its own: pytest's fault handler brings a stack too."""
    program = """
import ctypes
from mvqkd.runtime.interruption import catch_signals

class Stack(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def size():
    stack = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack.size if stack.begin else 0

print(size())
with catch_signals():
    print(size())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    before, inside = map(int, found.stdout.split())
    # What AVX-512 registers take is 2.7 kB of it.
    assert before == 0 and inside >= 8192


@pytest.mark.slow
def test_signals_change_no_lstm():
    """oneDNN's uses the stack pointer for tensors: without a stack of its own a handler overwrites
    them."""
    program = """
import signal
import sys
import torch
from mvqkd.runtime.interruption import catch_signals

torch.set_num_threads(1)
torch.manual_seed(0)
lstm, x = torch.nn.LSTM(96, 96, batch_first=True), torch.randn(5, 100, 96)
received = 0

def gradients():
    lstm.zero_grad()
    lstm(x)[0].square().sum().backward()
    return [parameter.grad for parameter in lstm.parameters()]

wanted = gradients()

def receive(number, frame):
    global received
    received += 1

with catch_signals():
    signal.signal(signal.SIGALRM, receive)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    while received < 500:
        if not all(map(torch.equal, gradients(), wanted)):
            sys.exit("a signal changed a result")
    signal.setitimer(signal.ITIMER_REAL, 0)
print("unchanged")
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout == "unchanged\n", found.stderr
