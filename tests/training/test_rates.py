"""The peak learning rates where LR and LR_NEW_ROWS are None."""

from types import SimpleNamespace

import pytest

from motion_llm.training.batch_size import LEARNS_MOST
from motion_llm.training.rates import LORA, NEW_ROWS, WIDTH, rate_factor


@pytest.mark.parametrize(("width", "examples", "factor"), [
    (WIDTH, LEARNS_MOST, 1), (2 * WIDTH, LEARNS_MOST, 1 / 2), (WIDTH, 4 * LEARNS_MOST, 2),
    (4 * WIDTH, LEARNS_MOST, 1 / 4), (4 * WIDTH, 16 * LEARNS_MOST, 1), (64, LEARNS_MOST, 1)])
def test_rates_fall_with_the_width_and_grow_with_the_square_root_of_the_examples(width, examples, factor):
    assert rate_factor(width, examples) == pytest.approx(factor)


@pytest.fixture
def chosen(unsloth, monkeypatch):
    """chosen(lr, lr_new_rows, batch_size, grad_accum, width) -> the peaks that a stage trains with."""
    import train

    def run(lr, lr_new_rows, batch_size=8, grad_accum=1, width=1152):
        options = train.TrainingOptions(batch_size, grad_accum, lr, lr_new_rows, 0, 0, 0, 5, None, 128)
        options = train._with_rates(options, SimpleNamespace(width=width))
        return options.lr, options.lr_new_rows

    return run


def test_a_number_counts_as_given(chosen):
    assert chosen(0.1, 0.2) == (0.1, 0.2)
    assert chosen(None, 0.2) == pytest.approx((LORA / 2, 0.2))
    assert chosen(0.1, None) == pytest.approx((0.1, NEW_ROWS / 2))


def test_all_examples_of_an_update_count(chosen, monkeypatch):
    assert chosen(None, None, batch_size=8, grad_accum=4) == pytest.approx((LORA, NEW_ROWS))
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert chosen(None, None) == pytest.approx((LORA, NEW_ROWS))


def test_chosen_rates_are_told(chosen, caplog):
    caplog.set_level("INFO")
    chosen(None, None)
    assert ("learning rates 0.00075 (LR) and 0.0035 (LR_NEW_ROWS), for 8 examples an update and a base of width 1152"
            in caplog.text)
    caplog.clear()
    chosen(0.1, 0.2)  # given
    chosen(None, None, width=576)  # the usual ones
    assert caplog.text == ""
