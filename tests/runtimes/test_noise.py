"""The noise contract: published vectors, layout, independence of size and order, and PyTorch's own generator."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from genin.runtimes import noise
from genin.runtimes.errors import InputError

# Random123's kat_vectors, "philox4x32 10": counter, key, expected words.
KNOWN_ANSWERS = [
    ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_published_known_answers(counter: list[int], key: tuple[int, int], words: list[int]) -> None:
    assert noise.philox_4x32(np.array([counter], np.uint32), key).tolist() == [words]


def test_layout_is_seed_step_block() -> None:
    seed, step = 0x299F31D0A4093822, 7
    words = noise.philox_words(seed, step, 11)
    for block in range(3):
        expected = noise.philox_4x32(np.array([[block, 0, step, 0]], np.uint32), (0xA4093822, 0x299F31D0))[0]
        assert words[4 * block : 4 * block + 4].tolist() == expected.tolist()[: len(words) - 4 * block]


def test_words_are_pinned() -> None:
    """docs/noise.md gives these to other implementations; a change here breaks every picture."""
    words = noise.philox_words(42, 0, 1024)
    assert hashlib.sha256(words.astype("<u4").tobytes()).hexdigest() == GOLDEN_SHA256
    assert [f"{word:08x}" for word in words[:4]] == GOLDEN_WORDS
    np.testing.assert_allclose(noise.normal(42, (4,)), GOLDEN_NORMALS, rtol=0, atol=2e-7)


GOLDEN_SHA256 = "e173fdba09e0a2822bf0998543e341db4bcd053f4b03b67e2495e06e39a4b2a4"
GOLDEN_WORDS = ["9ceaf053", "77f5493b", "12bf50ad", "5742b3d7"]
GOLDEN_NORMALS = [-0.9701898, 0.19401896, -1.2356207, 1.9239267]


def test_the_documents_vectors() -> None:
    """The second vector of docs/noise.md: a seed above 2⁶³, a step other than 0."""
    words = [f"{word:08x}" for word in noise.philox_words(2**63 + 12345, 3, 8)]
    assert words == ["28a94d8b", "9983293b", "a764a798", "2cead84f", "26e87b0b", "591487c7", "6bfee01e", "9442807c"]
    text = (Path(__file__).parents[2] / "docs" / "noise.md").read_text(encoding="utf-8")
    assert all(item in text for item in [*words, *GOLDEN_WORDS, GOLDEN_SHA256])


def test_elements_do_not_depend_on_the_count() -> None:
    long = noise.normal(3, (4, 16, 16)).reshape(-1)
    for count in (1, 2, 3, 5, 17):
        assert np.array_equal(noise.normal(3, (count,)), long[:count])


def test_rows_of_a_batch_depend_on_their_seed_alone() -> None:
    batch = noise.batch_normal([5, 9, 5], (4, 2, 2))
    assert np.array_equal(batch[0], batch[2])
    assert np.array_equal(batch[1], noise.normal(9, (4, 2, 2)))


def test_normals_are_normal() -> None:
    values = noise.normal(1, (200_000,)).astype(np.float64)
    assert values.dtype == np.float64
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.08
    assert abs(np.corrcoef(values[::2], values[1::2])[0, 1]) < 0.01
    assert not np.array_equal(noise.normal(1, (8,)), noise.normal(1, (8,), step=1))


@pytest.mark.parametrize("seed", [0, 42, 2**31, 2**32 - 1, 2**40 + 5])
@pytest.mark.parametrize("count", [1, 2, 7, 15, 16, 17, 31, 32, 33, 1024, 4097])
def test_torch_mode_is_torch(seed: int, count: int) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.randn(count, generator=torch.Generator().manual_seed(seed)).numpy()
    # 2e-7 of the value where |z| > 1: float32 itself has no finer grain there.
    np.testing.assert_allclose(noise.normal(seed, (count,), mode="torch"), expected, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "7"])
def test_wrong_seeds_are_refused(seed: object) -> None:
    with pytest.raises(InputError, match="seed"):
        noise.normal(seed, (4,))  # type: ignore[arg-type]


def test_wrong_modes_and_steps_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown noise mode 'numpy'.*philox, torch"):
        noise.normal(0, (4,), mode="numpy")
    with pytest.raises(InputError, match="no steps"):
        noise.normal(0, (4,), mode="torch", step=1)
    with pytest.raises(InputError, match="step"):
        noise.normal(0, (4,), step=2**32)
