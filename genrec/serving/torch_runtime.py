"""Runs a bundle whose graph is one of PyTorch's programs: as `runtime`, with torch in the place of ONNX Runtime.

python -m genrec.serving.torch_runtime BUNDLE --parity --unsealed
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from genrec.serving.programs import PROGRAMS, read_program
from genrec.serving.runtime import BundleError, CandidateGenerator, check_manifest, check_parity


class TorchGenerator(CandidateGenerator):
    """A bundle with `format=torch_export` or `format=aot_inductor`; torch's own setting says how many threads."""

    def _open(self, folder: Path, catalogue: dict[str, np.ndarray], num_threads: int) -> None:
        self._catalogue = {name: torch.from_numpy(array) for name, array in catalogue.items()}
        form = self.config["format"]
        if form not in PROGRAMS:
            raise BundleError(f"{folder}: its graph is of format {form}, which genrec.serving.runtime reads")
        self._program = read_program(folder / PROGRAMS[form], form=form)

    def run(self, **inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `CandidateGenerator.run`."""
        given = [torch.from_numpy(inputs[name]) for name in ("histories", "lengths", "deny", "allow")]
        with torch.inference_mode():
            items, scores = self._program(*given, self._catalogue)
        return items.numpy(), scores.numpy()


def main(arguments: Sequence[str] | None = None) -> int:
    """Proves parity, as `runtime.main` does."""
    parser = argparse.ArgumentParser(
        description="The certificate of a bundle with format=torch_export or aot_inductor."
    )
    parser.add_argument("bundle", type=Path, help="folder of a bundle")
    parser.add_argument("--parity", action="store_true", required=True, help="compare with the probes")
    parser.add_argument("--unsealed", action="store_true", help="a bundle that is still being written: no manifest yet")
    words = parser.parse_args(arguments)
    try:
        if not words.unsealed:
            check_manifest(words.bundle)
        certificate = check_parity(TorchGenerator(words.bundle))
    except BundleError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    sys.stdout.write(json.dumps(certificate | {"torch": torch.__version__}) + "\n")
    return 0 if certificate["passed"] else 4


if __name__ == "__main__":
    sys.exit(main())
