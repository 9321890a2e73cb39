"""Signals ask to stop; loaders go on."""

from __future__ import annotations

import os
import signal

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
