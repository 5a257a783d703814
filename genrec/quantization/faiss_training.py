"""What FAISS's own quantisers need to train the same way twice. Knows FAISS and numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from genrec.errors import ConfigError


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS in one thread: its matrix factorisations and beams round otherwise with another number of them."""
    import faiss  # a third of a second, not at the start of every command

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def bits_of(what: str, codebook_sizes: Sequence[int]) -> list[int]:
    """log2 of each level's size.

    Raises:
        ConfigError: no levels, or a size that is no power of two from 2 to 65,536.
    """
    if not codebook_sizes or any(not 2 <= size <= 2**16 or size & (size - 1) for size in codebook_sizes):
        raise ConfigError(
            f"{what}: wrong codebook_sizes",
            expected="at least one level, each a power of two from 2 to 65536, since FAISS stores whole bits a level",
            found=list(codebook_sizes),
            fix="set tokenizer.codebook_sizes=[256,256,256], or use tokenizer=residual_kmeans for other sizes",
        )
    return [int(size).bit_length() - 1 for size in codebook_sizes]


def check_positive(what: str, **values: int) -> None:
    """Raises ConfigError that names the first value below 1."""
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{what}: wrong {name}", expected="at least 1", found=value)
