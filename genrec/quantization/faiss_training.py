"""What training with FAISS needs: a device, and what makes it repeatable. Knows FAISS and numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from genrec.errors import ConfigError

DEVICES = ("auto", "cpu", "gpu")


def num_gpus() -> int:
    """GPUs that the installed FAISS sees; 0 if it was built for CPUs alone, whatever the machine has."""
    import faiss  # a third of a second, not at the start of every command

    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


def uses_gpu(device: str, num_gpus: int) -> bool:
    """Whether to train on a GPU.

    Args:
        device: "auto": if there is one; "cpu"; "gpu".
        num_gpus: that FAISS sees.

    Raises:
        ConfigError: "gpu" without one, or another word.

    >>> [uses_gpu("auto", number) for number in (0, 1)], uses_gpu("cpu", 1), uses_gpu("gpu", 1)
    ([False, True], False, True)
    """
    if device not in DEVICES:
        raise ConfigError("FAISS: wrong device", expected=", ".join(DEVICES), found=device)
    if device == "gpu" and num_gpus < 1:
        raise ConfigError(
            "FAISS sees no GPU to train on",
            where="tokenizer.device",
            expected="a GPU, and faiss-gpu (CUDA 12) or faiss-gpu-cuvs (CUDA 13) in place of faiss-cpu",
            found="0 GPUs",
            fix="set tokenizer.device=cpu, or look at what genrec doctor says",
        )
    return device != "cpu" and num_gpus > 0


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
