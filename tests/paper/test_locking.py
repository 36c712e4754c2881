import os
import signal

import pytest

from layerprobe.paper.locking import BusyError, is_locked, locked


def test_a_folder_is_held_once_and_free_again(tmp_path):
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(BusyError, match="another process"), locked(tmp_path):
            pytest.fail("two hold the lock")
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass


def test_an_error_inside_frees_it(tmp_path):
    with pytest.raises(ValueError, match="inside"), locked(tmp_path):
        raise ValueError("inside")
    assert not is_locked(tmp_path)


def test_a_killed_holder_frees_it(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with locked(tmp_path):
                os.write(writer, b"x")
                signal.pause()
        finally:
            os._exit(0)
    os.read(reader, 1)  # it holds the lock now
    assert is_locked(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not is_locked(tmp_path)


def test_looking_does_not_keep_a_run_from_starting(tmp_path):
    """`is_locked` itself holds the lock for an instant: `locked` waits that long."""
    import fcntl
    import threading

    with locked(tmp_path):
        pass
    descriptor = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, os.close, [descriptor])
    timer.start()
    with locked(tmp_path):
        assert is_locked(tmp_path)
    timer.join()
