"""Which number format a processor is fastest with is measured, and bfloat16 has to be worth it."""

import pytest
import torch

from motion_llm.network import arithmetic
from motion_llm.network.arithmetic import Arithmetic, cpu_arithmetic
from motion_llm.network.base import weights_dtype


@pytest.mark.parametrize(("float32", "bfloat16", "chosen"), [
    (180.0, 820.0, torch.bfloat16), (90.0, 3.0, torch.float32), (100.0, 120.0, torch.float32),
    (100.0, 130.0, torch.bfloat16)])
def test_bfloat16_is_taken_where_it_is_clearly_faster(float32, bfloat16, chosen):
    assert Arithmetic(float32, bfloat16).dtype == chosen


def test_a_disturbed_measurement_chooses_no_bfloat16_for_a_processor_without_it(monkeypatch):
    monkeypatch.setattr(arithmetic, "_seconds", lambda x, weight: 1.0 if x.dtype == torch.bfloat16 else 1.5)
    for has, chosen in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(arithmetic, "has_bfloat16", lambda has=has: has)
        cpu_arithmetic.cache_clear()
        assert cpu_arithmetic(64, 96).dtype == chosen
    cpu_arithmetic.cache_clear()


def test_what_was_measured_is_told_with_the_choice_first():
    assert str(Arithmetic(90, 3.1)) == ("float32, as this processor makes 90 GFLOP/s of the model's products in it, "
                                        "and 3.1 in bfloat16")
    assert str(Arithmetic(180, 820)).startswith("bfloat16, as this processor makes 820 GFLOP/s")


def test_both_are_measured_once_in_a_process(monkeypatch):
    calls = []
    linear = arithmetic.functional.linear
    monkeypatch.setattr(arithmetic.functional, "linear", lambda x, w: (calls.append(x.dtype), linear(x, w))[1])
    cpu_arithmetic.cache_clear()
    first = cpu_arithmetic(64, 96)
    assert first is cpu_arithmetic(64, 96) and first.float32 > 0 and first.bfloat16 > 0
    assert calls.count(torch.float32) == arithmetic.ROUNDS + 1
    assert 2 <= calls.count(torch.bfloat16) <= arithmetic.ROUNDS + 1


@pytest.mark.parametrize(("slower", "calls"), [(100.0, 2), (0.25, 21)])
def test_what_is_hopeless_is_not_measured_again(monkeypatch, slower, calls):
    counted = []
    monkeypatch.setattr(arithmetic, "_seconds", lambda x, weight: counted.append(x.dtype) or (
        slower if x.dtype == torch.bfloat16 else 1.0))
    monkeypatch.setattr(arithmetic, "has_bfloat16", lambda: True)
    cpu_arithmetic.cache_clear()
    assert cpu_arithmetic(64, 96).dtype == (torch.float32 if slower > 1 else torch.bfloat16)
    assert counted.count(torch.bfloat16) == calls and counted.count(torch.float32) == 21
    cpu_arithmetic.cache_clear()


def test_a_setting_is_taken_as_given_but_float16_on_a_cpu(monkeypatch):
    monkeypatch.setattr("motion_llm.network.base.cpu_arithmetic", lambda *_: Arithmetic(1, 2))
    assert weights_dtype("float32", 8, 8, on_cpu=True) == torch.float32
    assert weights_dtype("auto", 8, 8, on_cpu=True) == torch.bfloat16
    assert weights_dtype("float16", 8, 8, on_cpu=True) == torch.bfloat16
    assert weights_dtype("float16", 8, 8, on_cpu=False) == torch.float16
