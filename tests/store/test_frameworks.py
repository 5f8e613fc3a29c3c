"""A store's features in the hands of Keras and TensorFlow."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamer.errors import EngineUnavailableError
from streamer.store import CatalogWriter, Store, compact_shards
from tests.conftest import delete, write_features

keras = pytest.importorskip("keras")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three classes that a line can tell apart."""
    rows = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    rows[np.arange(600), np.arange(600) % 3] += 4
    write_features(tmp_path / "a.store", rows)
    return tmp_path / "a.store"


def head(learning_rate: float = 0.05) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])
    optimizer = keras.optimizers.SGD(learning_rate)
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_a_head_trains_as_on_the_same_batches_from_memory(path: Path) -> None:
    with Store(path) as store:
        train = store.dataset(shuffle=False, split="train", buffer_bytes=2 * 100 * 32)
        model, oracle = head(), head()
        model.fit(train, epochs=2, shuffle=False, verbose=0)
        for _ in range(2):
            for rows, labels in store.dataset(shuffle=False, split="train", framework="numpy"):
                oracle.train_on_batch(rows, labels)
        for one, other in zip(model.get_weights(), oracle.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_same_seed_trains_the_same_head_with_any_number_of_workers(path: Path) -> None:
    def trained(workers: int, seed: int = 0) -> np.ndarray:
        with Store(path) as store:
            train = store.dataset(split="train", seed=seed, buffer_bytes=2 * 100 * 32)
            test = store.dataset(split="test", shuffle=False)
            train.workers = workers
            model = head()
            model.fit(train, epochs=3, shuffle=False, verbose=0, validation_data=test)
            assert model.evaluate(test, verbose=0)[1] > 0.9
            predicted = model.predict(test, verbose=0).argmax(axis=1)
            assert (predicted == test.labels).mean() > 0.9 and len(predicted) == len(test.ids)
            return model.get_weights()[0]

    once = trained(1)
    np.testing.assert_array_equal(once, trained(3))
    assert not np.array_equal(once, trained(1, seed=1))


def test_each_epoch_has_an_order_of_its_own(path: Path) -> None:
    with Store(path) as store:
        dataset, plain = store.dataset(), store.dataset(framework="numpy")
        for _ in range(2):
            for (rows, labels), (rows_again, labels_again) in zip(dataset, plain, strict=True):
                np.testing.assert_array_equal(rows, rows_again)
                np.testing.assert_array_equal(labels, labels_again)
            dataset.on_epoch_end()


def test_shuffling_twice_is_warned_of_as_it_reads_much(path: Path) -> None:
    with Store(path) as store:
        train = store.dataset(batch_size=10)
        with pytest.warns(UserWarning, match=r"call fit\(\.\.\., shuffle=False\)"):
            head().fit(train, verbose=0)


def test_tensorflow_gets_the_same_batches(path: Path) -> None:
    with Store(path) as store:
        dataset, plain = store.dataset(framework="tf"), store.dataset(framework="numpy")
        assert (int(dataset.cardinality()), dataset.classes) == (len(plain), plain.classes)
        assert dataset.element_spec[0].shape.as_list() == [None, 8]
        for _ in range(2):
            batches = list(dataset)
            for one, other in zip(batches, plain, strict=True):
                np.testing.assert_array_equal(one[0].numpy(), other[0])
                np.testing.assert_array_equal(one[1].numpy(), other[1])


def test_an_epoch_of_tensorflow_that_has_become_shorter_is_filled_up_from_the_next(path: Path) -> None:
    """The number of batches was asserted: TensorFlow ended the training when images had been compacted away."""
    with Store(path) as store:
        dataset = store.dataset(framework="tf", batch_size=100, buffer_bytes=2 * 100 * 32)
        delete(path, [f"c{number % 3}/{number:04d}.jpg" for number in range(250)])
        with contextlib.closing(CatalogWriter(path / "catalog.sqlite")) as catalog:
            compact_shards(path, catalog)
        store._reader.close()  # files that are open would be read on
        for _ in range(3):
            labels = [labels.numpy() for _, labels in dataset]
            assert len(labels) == int(dataset.cardinality()) == 6
        assert [len(each) for each in labels] == [100, 100, 100, 50, 100, 100]


@pytest.mark.parametrize(("framework", "package"), [("keras", "keras"), ("tf", "tensorflow")])
def test_without_the_framework_the_error_says_what_to_install(
    path: Path, monkeypatch: pytest.MonkeyPatch, framework: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with Store(path) as store, pytest.raises(EngineUnavailableError, match=rf"takes {package}.*streamer\[keras\]"):
        store.dataset(framework=framework)


def test_plain_batches_load_neither(path: Path) -> None:
    code = (
        "import sys; from streamer import Store\n"
        f"with Store({str(path)!r}) as store: n = sum(len(rows) for rows, _ in store.dataset(framework='numpy'))\n"
        "assert n == 600 and not {'keras', 'tensorflow', 'sklearn', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
