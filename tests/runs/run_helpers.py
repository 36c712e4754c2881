"""Stop a training after an epoch, and wait for other processes."""

import time


def stop_at(number):
    def stop(epoch):
        if epoch.epoch == number:
            raise KeyboardInterrupt

    return stop


def wait_until(condition, seconds=240):  # of a machine that may be busy
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
