"""Kinds that read files, on small generated files of the same format; real data are fetched in slow tests."""

import gzip
import json
import os
import pickle
import struct
import sys
import types
import zlib

import numpy as np
import pytest

from fedopt.data import _fetch
from fedopt.data._files import read_idx
from fedopt.data.cifar import Cifar, read_pickle
from fedopt.data.fashion_mnist import FashionMnist, fetch
from fedopt.data.huggingface import HuggingFace
from fedopt.data.idx import Idx
from fedopt.data.leaf_json import LeafJson
from fedopt.data.novels import Novels, chapters, read_character_vectors
from fedopt.data.npz import Npz
from fedopt.data.table import Table
from fedopt.data.text_files import TextFiles

RNG = np.random.default_rng(0)


def write_idx(path, array):
    code = {"u1": 0x08, "i4": 0x0C, "f4": 0x0D}[array.dtype.str[1:]]
    raw = struct.pack(">HBB", 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    raw += array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_mnist(folder, suffix=".gz", train=60, test=20):
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("t10k", test)):
        write_idx(folder / f"{name}-images-idx3-ubyte{suffix}", RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{name}-labels-idx1-ubyte{suffix}", (np.arange(count) % 10).astype(np.uint8))


def test_idx_types_and_damage(tmp_path):
    for array in (np.arange(12, dtype=np.int32).reshape(3, 4), np.linspace(0, 1, 5, dtype=np.float32)):
        write_idx(tmp_path / "x", array)
        assert np.array_equal(read_idx(tmp_path / "x"), array)
    raw = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(raw[:-1])
    with pytest.raises(ValueError, match="cut off or damaged"):
        read_idx(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"\x00\x00\x08")
    with pytest.raises(ValueError, match="not an IDX file"):
        read_idx(tmp_path / "x")


def test_fashion_mnist_from_a_folder_and_from_the_environment(tmp_path, monkeypatch):
    write_mnist(tmp_path / "fashion_mnist")
    data = FashionMnist(path=str(tmp_path / "fashion_mnist"), clients=6).load(0)
    assert data.train.inputs.shape == (60, 1, 28, 28) and len(data.test) == 20
    assert data.train.inputs.dtype == np.float32 and data.train.inputs.max() <= 1.0
    assert data.source["licence"] == "MIT" and data.class_names[9] == "Ankle boot"
    monkeypatch.setenv("FEDOPT_DATA", str(tmp_path))
    few = FashionMnist(clients=5, limit=30, test_limit=10).load(0)
    assert (len(few.train), len(few.test)) == (30, 10) and few.source["sha256"] == data.source["sha256"]


def test_missing_data_says_where_it_looked_and_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not found in .*nowhere.*dataset-fashion-mnist.*download: true"):
        FashionMnist(path=str(tmp_path / "nowhere"), download=True).load(0)


def test_idx_kind_takes_other_names(tmp_path):
    write_mnist(tmp_path, suffix="")
    assert Idx(path=str(tmp_path), clients=3).load(0).task.num_outputs == 10
    (tmp_path / "train-images-idx3-ubyte").rename(tmp_path / "letters")
    assert len(Idx(path=str(tmp_path), train_images="letters", clients=3).load(0).train) == 60
    with pytest.raises(FileNotFoundError, match="no train-images-idx3-ubyte"):
        Idx(path=str(tmp_path), clients=3).load(0)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="differ in number: 60 and 60, 20 and 3"):
        Idx(path=str(tmp_path), train_images="letters", clients=3).load(0)


def _cifar_arrays(count, classes):
    return RNG.integers(0, 256, (count, 3072), dtype=np.uint8), (np.arange(count) % classes).tolist()


def test_cifar_binary_and_pickle_agree(tmp_path):
    binary, python = tmp_path / "cifar-10-batches-bin", tmp_path / "py" / "cifar-10-batches-py"
    binary.mkdir()
    python.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        images, labels = _cifar_arrays(8, 10)
        rows = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], images], axis=1)
        (binary / f"{name}.bin").write_bytes(rows.tobytes())
        (python / name).write_bytes(pickle.dumps({b"data": images, b"labels": labels}, protocol=2))
    first, second = (Cifar(path=str(p), clients=4).load(0) for p in (binary, tmp_path / "py"))
    assert first.train.inputs.shape == (40, 3, 32, 32) and len(first.test) == 8
    assert np.array_equal(first.train.inputs, second.train.inputs)
    assert np.array_equal(first.train.targets, second.train.targets)


def test_cifar_100_has_fine_labels_and_coarse_owners(tmp_path):
    for name in ("train.bin", "test.bin"):
        images, fine = _cifar_arrays(40, 100)
        labels = np.stack([np.arange(40) % 20, fine], axis=1).astype(np.uint8)
        (tmp_path / name).write_bytes(np.concatenate([labels, images], axis=1).tobytes())
    data = Cifar(path=str(tmp_path), clients=2, coarse_owners=True).load(0)
    assert data.task.num_outputs == 100 and data.train.targets.max() == 39 and data.train.groups.max() == 19


def test_cifar_pickle_cannot_run_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'broken_into'}",)

    (tmp_path / "batch").write_bytes(pickle.dumps({"data": Attack(), "labels": [0]}))
    with pytest.raises(ValueError, match=r"refers to (posix|nt)\.system, which is not allowed"):
        read_pickle(tmp_path / "batch", 10)
    assert not (tmp_path / "broken_into").exists()
    (tmp_path / "batch").write_bytes(pickle.dumps({"other": 1}))
    with pytest.raises(ValueError, match="not a CIFAR-10 batch: it holds other"):
        read_pickle(tmp_path / "batch", 10)


def test_leaf_images(tmp_path):
    for part, count in (("train", 8), ("test", 3)):
        (tmp_path / part).mkdir()
        users = {f"u{i}": {"x": RNG.random((count, 4)).tolist(), "y": [i] * count} for i in range(5)}
        content = {"users": list(users), "num_samples": [count] * 5, "user_data": users}
        (tmp_path / part / "data.json").write_text(json.dumps(content))
    data = LeafJson(path=str(tmp_path), clients=5, input_shape=(1, 2, 2), client_test_source="owner").load(0)
    assert data.train.inputs.shape == (40, 1, 2, 2) and data.clients.sizes().tolist() == [8] * 5
    assert data.client_tests.sizes().tolist() == [3] * 5
    assert all(set(data.test.targets[data.client_tests.of(i)]) == {i} for i in range(5))
    with pytest.raises(ValueError, match=r"input_shape \[3, 3\] does not fit examples of 4 values"):
        LeafJson(path=str(tmp_path), clients=5, input_shape=(3, 3)).load(0)


def test_leaf_text_targets_are_the_next_characters(tmp_path):
    users = {"a": {"x": ["abcd", "bcda"], "y": ["a", "b"]}, "b": {"x": ["dcba"] * 3, "y": ["d"] * 3}}
    (tmp_path / "all.json").write_text(json.dumps({"user_data": users}))
    data = LeafJson(path=str(tmp_path), clients=2).load(0)
    assert data.task.kind == "next_token" and data.class_names == tuple("abcd")
    assert np.array_equal(data.train.inputs[:, 1:], data.train.targets[:, :-1])
    (tmp_path / "all.json").write_text("{}")
    with pytest.raises(ValueError, match="needs user_data"):
        LeafJson(path=str(tmp_path), clients=2).load(0)


def test_npz(tmp_path):
    x, y = RNG.integers(0, 256, (50, 6, 6), dtype=np.uint8), np.arange(50) % 4
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, groups_train=np.arange(50) % 5)
    data = Npz(path=str(tmp_path / "a.npz"), clients=5).load(0)
    assert data.train.inputs.shape == (40, 1, 6, 6) and data.train.inputs.max() <= 1 and data.task.num_outputs == 4
    np.savez(tmp_path / "b.npz", x_train=x.astype(float), y_train=y * 0.5, x_test=x[:3].astype(float), y_test=y[:3])
    with pytest.raises(ValueError, match="classes must be non-negative integers"):
        Npz(path=str(tmp_path / "b.npz"), clients=5).load(0)
    assert Npz(path=str(tmp_path / "b.npz"), task="regression", clients=5).load(0).test.targets.shape == (3, 1)
    np.savez(tmp_path / "c.npz", x_train=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="holds arrays of Python objects"):
        Npz(path=str(tmp_path / "c.npz"), clients=5).load(0)


@pytest.mark.parametrize("ending", ["csv", "parquet", "csv.gz", "tsv"])
def test_table(tmp_path, ending):
    import pandas

    frame = pandas.DataFrame(
        {
            "hospital": [f"h{i % 3}" for i in range(60)],
            "age": np.arange(60) + 0.5,
            "sex": ["f", "m"] * 30,
            "ill": ["no", "yes", "no"] * 20,
        }
    )
    path = tmp_path / f"data.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    settings = {"path": str(path), "target_column": "ill", "client_column": "hospital", "clients": 3}
    data = Table(**settings).load(0)
    assert data.task.input_shape == (3,) and data.class_names == ("no", "yes")
    assert (data.train.inputs[:, 1] + data.train.inputs[:, 2] == 1).all() and set(data.train.groups) == {
        "h0",
        "h1",
        "h2",
    }
    scaled = Table(**settings, standardize=True, test_path=str(path)).load(0)
    assert len(scaled.train) == len(scaled.test) == 60
    assert scaled.train.inputs.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-6)
    with pytest.raises(ValueError, match="has no column weight; it has hospital, age, sex, ill"):
        Table(**settings, feature_columns=("weight",)).load(0)


def test_table_refuses_missing_values_and_unknown_formats(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,0\n,1\n")
    with pytest.raises(ValueError, match="column 'x' has 1 missing values"):
        Table(path=str(tmp_path / "a.csv"), target_column="y", clients=1).load(0)
    (tmp_path / "a.xls").write_text("")
    with pytest.raises(ValueError, match=r"unknown format; use a name ending in \.csv"):
        Table(path=str(tmp_path / "a.xls"), target_column="y", clients=1).load(0)


def test_text_files_windows_do_not_overlap_and_shift_by_one(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "bob").mkdir()
    (tmp_path / "ann" / "one.txt").write_text("abcdefghij" * 10 + "k")
    (tmp_path / "ann" / "two.txt").write_text("ba" * 60)
    (tmp_path / "bob" / "one.txt").write_text("é" * 61)
    data = TextFiles(path=str(tmp_path), sequence=10, clients=3, test_fraction=0.2).load(0)
    assert (len(data.train), len(data.test)) == (8 + 9 + 5, 2 + 2 + 1)
    assert np.array_equal(data.train.inputs[:, 1:], data.train.targets[:, :-1])
    characters = data.source["vocabulary"]
    assert characters == "abcdefghijké" and data.task.num_outputs == 12
    first = data.train.inputs[data.clients.of(0)]
    assert "".join(characters[t] for t in first[0]) == "abcdefghij"
    assert characters[data.test.targets[1][-1]] == "k"
    assert TextFiles(path=str(tmp_path), sequence=10, clients=2, owner="folder").load(0).clients.num_clients == 2
    with pytest.raises(ValueError, match="use a shorter sequence"):
        TextFiles(path=str(tmp_path), sequence=500, clients=1).load(0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no \.txt file"):
        TextFiles(path=str(tmp_path / "empty"), sequence=5, clients=1).load(0)


def write_novels(path, books):
    """An R lazy-load database of character vectors, as R writes it."""
    raw = b""
    for lines in books:
        body = b"X\n" + struct.pack(">IIII", 3, 0x40201, 0x30500, 5) + b"UTF-8" + struct.pack(">II", 16, len(lines))
        for line in lines:
            coded = line.encode()
            body += struct.pack(">Ii", 0x00040009, len(coded)) + coded
        raw += struct.pack(">I", len(body)) + zlib.compress(body)
    path.write_bytes(raw)


def test_novels_from_a_database_of_the_same_format(tmp_path):
    books = [["TITLE", "", "CHAPTER I", "abc £ " * 20, "Chapter 2", "xyz" * 40]] * 6
    write_novels(tmp_path / "Rdata.rdb", books)
    assert read_character_vectors(tmp_path / "Rdata.rdb") == books
    assert [text[:9] for text in chapters(books[0])] == ["CHAPTER I", "Chapter 2"]
    data = Novels(path=str(tmp_path), sequence=10, clients=12, test_fraction=0.2).load(0)
    assert data.clients.num_clients == 12 and (data.clients.sizes() > 0).all() and len(data.test) > 0
    assert Novels(path=str(tmp_path), sequence=10, clients=6, owner="book").load(0).clients.num_clients == 6
    (tmp_path / "Rdata.rdb").write_bytes((tmp_path / "Rdata.rdb").read_bytes()[:-9])
    with pytest.raises(ValueError, match="cut off or damaged"):
        Novels(path=str(tmp_path)).load(0)
    with pytest.raises(FileNotFoundError, match="r-cran-janeaustenr"):
        Novels(path=str(tmp_path / "nothing")).load(0)


def test_hugging_face_is_optional_and_its_columns_are_checked(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    with pytest.raises(FileNotFoundError, match=r"needs flwr-datasets .*fedopt\[huggingface\]"):
        HuggingFace(dataset="a/b").load(0)

    class Rows(dict):
        column_names = property(lambda self: list(self))

    class Federated:
        def __init__(self, dataset, subset, partitioners):
            assert dataset == "a/b" and list(partitioners) == ["train"]

        def load_split(self, split):
            count = {"train": 30, "test": 10}[split]
            images = list(RNG.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8))
            return Rows(image=images, label=[i % 3 for i in range(count)])

    package, inner = types.ModuleType("flwr_datasets"), types.ModuleType("flwr_datasets.partitioner")
    package.FederatedDataset, inner.IidPartitioner = Federated, lambda num_partitions: num_partitions
    monkeypatch.setitem(sys.modules, "flwr_datasets", package)
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", inner)
    data = HuggingFace(dataset="a/b", clients=3).load(0)
    assert data.train.inputs.shape == (30, 3, 4, 4) and data.train.inputs.max() <= 1 and data.task.num_outputs == 3
    with pytest.raises(ValueError, match="has no column writer; it has image, label"):
        HuggingFace(dataset="a/b", client_column="writer", clients=3).load(0)


def test_fetching_without_the_tools_or_the_internet_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="apt-get is not on this machine"):
        _fetch.fetch_debian("some-package", tmp_path / "into")
    with pytest.raises(FileNotFoundError, match="without the internet, put the files into a folder"):
        _fetch.download("http://127.0.0.1:9/file", tmp_path / "file", timeout=2.0)
    assert not list(tmp_path.glob("file*"))


def test_download_writes_the_whole_file(tmp_path):
    (tmp_path / "source").write_bytes(b"content")
    target = _fetch.download((tmp_path / "source").as_uri(), tmp_path / "deep" / "copy")
    assert target.read_bytes() == b"content" and [p.name for p in target.parent.iterdir()] == ["copy"]


@pytest.mark.slow
def test_real_fashion_mnist(tmp_path):
    fetch(tmp_path)
    data = FashionMnist(path=str(tmp_path)).load(0)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert np.bincount(data.train.targets).tolist() == [6000] * 10
    assert data.train.inputs.mean() == pytest.approx(0.2860, abs=1e-3)


@pytest.mark.slow
def test_real_novels(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDOPT_DATA", str(tmp_path))
    data = Novels(download=True, clients=269).load(0)
    assert data.task.num_outputs == 81 and len(np.unique(data.train.groups)) == 269
    assert 48_000 < len(data.train) + len(data.test) < 50_400
