import pytest

from mlx_entk import InputError
from mlx_entk._memory import available_bytes, default_limit, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("500 mb", 5 * 10**8), ("1.5kB", 1500), ("10", 10)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "4 gigs", "-1GB", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a size: write 500MB or 4GB"):
        parse_bytes(text)


def test_sizes_are_written() -> None:
    assert [format_bytes(size) for size in (12, 1500, 2.5e9, 3e15)] == [
        "12 B",
        "1.5 kB",
        "2.5 GB",
        "3e+03 TB",
    ]


def test_the_default_limit_is_half_of_what_is_available() -> None:
    assert default_limit() == pytest.approx(available_bytes() / 2, rel=0.2)
    assert default_limit() > 2**20
