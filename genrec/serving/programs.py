"""The graph as PyTorch's own programs: what torch.export saves, and what AOTInductor compiles of it.

A compiled program is machine code for the kind of processor that it was compiled on; it needs torch to be loaded, but
no compiler.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrec.errors import ConfigError

# Files of a bundle, by its format.
PROGRAMS = {"torch_export": "model.pt2", "aot_inductor": "compiled.pt2"}

# (histories, lengths, deny, allow, catalogue) -> item_index, score; see `graph.SearchGraph`.
Program = Callable[..., tuple[Tensor, Tensor]]


def write_program(program: torch.export.ExportedProgram, path: Path, *, form: str) -> None:
    """Saves a program, compiled if `form` is "aot_inductor", which takes a minute or more.

    Raises:
        ConfigError: it cannot be compiled here.
    """
    if form == "torch_export":
        program.example_inputs = None  # a whole catalogue
        with path.open("wb") as file:
            torch.export.save(program, file)
        return
    from torch._inductor import aoti_compile_and_package  # seconds of imports that others should not pay for
    from torch._inductor.exc import CppCompileError, InductorError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            aoti_compile_and_package(program, package_path=str(path))
    except (CppCompileError, InductorError) as error:
        found = str(error).strip().splitlines()[0]
        fix = "install a C++ compiler (CXX names it), or choose another format"
        raise ConfigError("AOTInductor cannot compile the graph", where="key 'format'", found=found, fix=fix) from error


def read_program(path: Path, *, form: str) -> Program:
    """What `write_program` has written."""
    if form == "torch_export":
        return torch.export.load(path).module()
    from torch._inductor import aoti_load_package

    compiled: Any = aoti_load_package(str(path))
    return compiled
