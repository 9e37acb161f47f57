import numpy as np
import pytest

from mlx_entk.data import modular_addition


def test_every_pair_is_there_once_with_its_class() -> None:
    data = modular_addition(5, 0.7, seed=0)

    assert sorted(zip(data.n.tolist(), data.m.tolist(), strict=True)) == [
        (n, m) for n in range(5) for m in range(5)
    ]
    np.testing.assert_array_equal(data.labels, (data.n + data.m) % 5)


def test_the_split_is_a_partition_of_the_stated_size_that_the_seed_decides() -> None:
    data, again, other = (modular_addition(5, 0.7, seed) for seed in (0, 0, 1))

    assert data.train.size == round(0.7 * 25)
    assert sorted([*data.train, *data.test]) == list(range(25))
    np.testing.assert_array_equal(data.train, again.train)
    assert not np.array_equal(data.train, other.train)


def test_one_hot_inputs_put_n_beside_m() -> None:
    data = modular_addition(5, 0.7, seed=0)

    assert np.flatnonzero(data.x[3 * 5 + 4]).tolist() == [3, 5 + 4]
    assert data.x.dtype == np.float32


def test_cyclic_inputs_are_shifts_of_one_vector_of_unit_length() -> None:
    data = modular_addition(5, 0.7, seed=0, embedding="cyclic")

    of_zero = data.x[0, :5]
    assert np.linalg.norm(of_zero) == pytest.approx(1)
    np.testing.assert_array_equal(data.x[3 * 5 + 4], [*np.roll(of_zero, 3), *np.roll(of_zero, 4)])


def test_a_cyclic_pair_shifts_another_vector_for_the_second_summand() -> None:
    data = modular_addition(5, 0.7, seed=0, embedding="cyclic-pair")
    single = modular_addition(5, 0.7, seed=0, embedding="cyclic")

    np.testing.assert_array_equal(data.x[:, :5], single.x[:, :5])
    np.testing.assert_array_equal(data.train, single.train)
    of_zero = data.x[0, 5:]
    assert np.linalg.norm(of_zero) == pytest.approx(1)
    assert abs(of_zero @ data.x[0, :5]) < 0.9
    np.testing.assert_array_equal(data.x[3 * 5 + 4, 5:], np.roll(of_zero, 4))
