"""The one-byte code: bounds, signs, zero, idempotence, unbiased rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedopt import rng
from fedopt.zeroth_order import one_byte


def log_uniform(count: int, low: float, high: float) -> torch.Tensor:
    generator = np.random.default_rng(0)
    size = np.exp(generator.uniform(np.log(low), np.log(high), count))
    return torch.from_numpy(size * generator.choice([-1.0, 1.0], count))


def test_relative_error_and_sign_over_the_whole_range():
    values = log_uniform(1_000_000, one_byte.SMALLEST, one_byte.LARGEST)
    made = one_byte.decode(one_byte.encode(values)).double()
    error = float(((made - values) / values).abs().max())
    assert 0.06 < error <= one_byte.RELATIVE_ERROR + 1e-6 < 0.065
    assert torch.equal(made.sign(), values.sign())


def test_all_codes_are_idempotent_and_distinct():
    codes = torch.tensor([c for c in range(256) if c != 0x80], dtype=torch.uint8)
    values = one_byte.decode(codes)
    assert torch.equal(one_byte.encode(values), codes)
    assert len(values.unique()) == 255
    assert torch.equal(one_byte.decode(one_byte.encode(values)), values)
    assert torch.equal(one_byte.encode(values, key=3), codes)  # exact values do not need a draw


def test_known_codes():
    values = torch.tensor([0.0, 1.0, -1.0, 2632.0, 1e9, -1e9, 3.8e-4, 1e-5])
    assert one_byte.encode(values).tolist() == [0, 64, 192, 127, 127, 255, 1, 0]
    assert one_byte.decode(torch.tensor([65], dtype=torch.uint8)).item() == pytest.approx(np.exp(1 / 8), rel=1e-6)


@pytest.mark.parametrize("value", [0.9, -17.3, 3e-4, -5e-5, 2600.0])
def test_stochastic_rounding_is_unbiased_and_nearest_is_not(value):
    values = torch.full((40_000,), value, dtype=torch.float64)
    made = one_byte.decode(one_byte.encode(values, rng.key(0, "rounding"))).double()
    error = float(made.std()) / 200
    assert len(made.unique()) == 2
    assert abs(float(made.mean()) - value) < 4 * error
    nearest = float(one_byte.decode(one_byte.encode(values[:1])))
    assert abs(nearest - value) > 4 * error


def test_rounding_is_a_function_of_its_key():
    values = log_uniform(200, 0.1, 10)
    assert torch.equal(one_byte.encode(values, 7), one_byte.encode(values, 7))
    assert not torch.equal(one_byte.encode(values, 7), one_byte.encode(values, 8))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinite and has no byte"):
        one_byte.encode(torch.tensor([1.0, bad]))


def test_a_damaged_byte_is_refused():
    with pytest.raises(ValueError, match="0x80 is not a code"):
        one_byte.decode(torch.tensor([0x80], dtype=torch.uint8))
