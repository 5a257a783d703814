"""Commands in a row, of which only those run whose configuration or inputs have changed: `recipe.json` remembers."""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genrec.artifacts import Artifact, load_artifact
from genrec.config import schema, training
from genrec.config.load import to_plain
from genrec.errors import ArtifactError
from genrec.files import read_json, sha256_file, write_json
from genrec.pipeline.prepare import raw_folder
from genrec.pipeline.sections import keys_of
from genrec.runs import remove_run
from genrec.terminal import Outcome, Progress


class Stages:
    """What a recipe has made so far, in recipe.json: configuration, inputs and identity of each artifact.

    Args:
        folder: of recipe.json.
        of: what the commands are sections of, for remedies that name keys.
    """

    def __init__(self, folder: Path, of: str = "recipe") -> None:
        self.path = folder / "recipe.json"
        self.record: dict[str, Any] = read_json(self.path) if self.path.is_file() else {}
        self.outcomes: dict[str, Outcome] = {}
        self.reused: list[str] = []
        self.of = of

    def run(
        self,
        name: str,
        config: Any,
        output: Path,
        inputs: dict[str, str],
        command: Callable[..., Outcome],
        progress: Progress,
    ) -> Artifact:
        known = self._known(name, config, output, inputs)
        if known is not None:
            return known
        with keys_of(name, self.of):
            self.outcomes[name] = command(config, progress=progress)
        return self._remember(name, config, output, inputs)

    def train(self, config: training.TrainConfig, inputs: dict[str, str], progress: Progress) -> Artifact:
        from genrec.pipeline.train import train  # torch is loaded for trainings only

        output = config.run / "recommender"
        known = self._known("train", config, output, inputs)
        if known is not None:
            return known
        # A run that was cut off goes on; one with another configuration or other inputs makes room.
        started = {"config": to_plain(config), "inputs": inputs}
        goes_on = self.record.get("training") == started and config.run.exists()
        if config.run.exists() and not goes_on:
            remove_run(config.run)
        self.record["training"] = started
        self._save()
        with keys_of("train", self.of):
            self.outcomes["train"] = train(config, progress=progress, resume=goes_on)
        return self._remember("train", config, output, inputs)

    def _known(self, name: str, config: Any, output: Path, inputs: dict[str, str]) -> Artifact | None:
        entry = self.record.get(name)
        if entry is None or entry["config"] != to_plain(config) or entry["inputs"] != inputs:
            return None
        try:
            artifact = load_artifact(output)
        except ArtifactError:
            return None  # gone or damaged since: it is made anew
        if artifact.identity != entry["identity"]:
            return None
        self.reused.append(name)
        return artifact

    def _remember(self, name: str, config: Any, output: Path, inputs: dict[str, str]) -> Artifact:
        artifact = load_artifact(output, verify=False)
        self.record[name] = {"config": to_plain(config), "inputs": inputs, "identity": artifact.identity}
        self._save()
        return artifact

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.record)


def initial_of(config: training.TrainConfig) -> dict[str, str]:
    """What to start training from; looked for before the work that comes earlier."""
    return {} if config.initial is None else {"initial": load_artifact(config.initial, verify=False).identity}


def id_files(config: training.TokenizeConfig) -> dict[str, str]:
    """The sha256 of the files of imported semantic IDs that are there."""
    section = config.tokenizer
    files = (section.path, section.item_map) if isinstance(section, training.ImportedTokenizer) else ()
    return {str(path): sha256_file(path) for path in files if path is not None and path.is_file()}


def collaborative_of(config: training.TokenizeConfig) -> dict[str, str]:
    """What the codes are aligned with; likewise."""
    folder = getattr(config.tokenizer, "collaborative", None)
    return {} if folder is None else {"collaborative": load_artifact(folder, verify=False).identity}


def raw_files(config: schema.PrepareConfig) -> dict[str, str]:
    """The sha256 of every raw file that the source names and that is there."""
    folder = raw_folder(config)
    names = [value for value in to_plain(config.source).values() if isinstance(value, str)]
    found = sorted({Path(match) for name in names for match in glob.glob(f"{folder / name}*")})
    return {str(path): sha256_file(path) for path in found if path.is_file()}
