"""A bundle as what answers, after every check that can be made without the recommender it came from."""

from __future__ import annotations

from pathlib import Path

from genrec.errors import ArtifactError
from genrec.serving.runtime import BundleError, CandidateGenerator, check_parity


def open_bundle(folder: Path, *, num_threads: int = 1) -> CandidateGenerator:
    """A generator whose files are as they were written, and which answers the bundle's probes as the recommender did.

    Raises:
        ArtifactError: one of the two does not hold, or there is no bundle.
    """
    try:
        generator = CandidateGenerator.load(folder, num_threads=num_threads)
        parity = check_parity(generator)
    except (BundleError, OSError, KeyError, ValueError) as error:
        raise ArtifactError(str(error)) from error
    if not parity["passed"]:
        found = f"{parity['num_different']} other lists, scores up to {parity['largest_score_difference']:.2g} off"
        raise ArtifactError("its own probes are answered otherwise", where=folder, found=found, fix="export it again")
    return generator
