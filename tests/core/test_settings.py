"""Threads and precision: settings of the process that are changed for a while, and restored."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from threadpoolctl import threadpool_info

from layerprobe.core import fit_subspaces
from layerprobe.utils.settings import Setting, full_precision, one_thread, parallel


def test_workers_have_one_thread_and_the_settings_are_restored():
    def blas():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    torch.set_num_threads(2)
    before = blas()
    try:
        seen = parallel(lambda _: (torch.get_num_threads(), set(blas())), range(4))
        assert seen == [(1, {1})] * 4
        assert torch.get_num_threads() == 2
        assert blas() == before
        with pytest.raises(ZeroDivisionError):
            parallel(lambda item: 1 // item, [0])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_products_have_full_precision_under_any_setting():
    def settings():
        if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
            return [b.matmul.fp32_precision for b in (torch.backends.cuda, torch.backends.mkldnn)]
        return [torch.get_float32_matmul_precision()]

    torch.set_float32_matmul_precision("medium")
    before = settings()
    try:
        with full_precision:
            assert set(settings()) <= {"ieee", "highest"}
        assert settings() == before
        assert set(*parallel(lambda _: settings(), [0])) <= {"ieee", "highest"}
        assert torch.get_float32_matmul_precision() == "medium"  # nothing is half restored
    finally:
        torch.set_float32_matmul_precision("highest")


def test_settings_are_restored_after_several_python_threads():
    def settings():
        return (
            torch.get_num_threads(),
            {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"},
            torch.backends.mkldnn.matmul.fp32_precision,
        )

    def enter(_):
        with one_thread():
            pass

    generator = torch.Generator().manual_seed(0)
    X, codes = torch.randn(400, 60, generator=generator), torch.arange(400) % 3
    before = settings()
    expected = fit_subspaces(X, codes, 3, variance=0.9).predict(X)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fit_subspaces(X, codes, 3, variance=0.9).predict(X), range(40)))
        list(pool.map(enter, range(2000)))
    assert settings() == before
    assert all(torch.equal(one, expected) for one in found)


def test_the_last_of_several_users_restores_a_setting():
    values = [[4, 2]]
    setting = Setting(lambda: values[-1], values.append, 1)
    with setting:
        with setting:
            assert values[-1] == [1, 1]
        assert values[-1] == [1, 1]
    assert values == [[4, 2], [1, 1], [4, 2]]


def test_small_work_is_done_in_order_in_one_thread():
    torch.set_num_threads(2)
    try:
        names = parallel(lambda _: threading.current_thread().name, range(4), operations=1e3)
        assert set(names) == {threading.current_thread().name}
    finally:
        torch.set_num_threads(1)
