"""Every kind of recommender through the command line: trained, continued on a later catalogue's terms, evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import works

SHORT = ["stopping.max_epochs=2", "stopping.max_cases=40", "optimizer.batch_size=16", "accelerator=cpu"]
FLAT = ["model=decoder_only", "model.width=16", "model.num_layers=2", "model.num_heads=2", "model.hidden=24"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset d and semantic IDs s of a small planted catalogue."""
    folder = tmp_path_factory.mktemp("road")
    size = ["source.num_users=150", "source.num_items=80", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works("embed", f"dataset={folder}/d", f"output={folder}/e", "embedding=tfidf", "embedding.dimensions=16")
    words = ["tokenizer=residual_kmeans", f"tokenizer.embeddings={folder}/e", "tokenizer.codebook_sizes=[12,12,12]"]
    works("tokenize", f"dataset={folder}/d", f"output={folder}/s", *words)
    return folder


def train(road: Path, run: Path, *words: str) -> dict[str, object]:
    places = [f"dataset={road}/d", f"semantic_ids={road}/s", f"run={run}"]
    return works("train", *places, "model.history_length=8", *SHORT, *words)


def check_it_is_in_the_table(road: Path, run: Path, output: Path) -> None:
    words = [f"recommenders.mine={run}/recommender", "models=[popularity]", "cutoffs=[20]", "search.beam_width=20"]
    found = works("evaluate", f"dataset={road}/d", f"output={output}", *words)
    recall = {row["model"]: row["metrics"]["recall@20"]["mean"] for row in found["rows"]}
    assert 0 < recall["mine"] <= 1


def test_a_flat_recommender(road: Path, tmp_path: Path) -> None:
    train(road, tmp_path / "run", *FLAT)
    check_it_is_in_the_table(road, tmp_path / "run", tmp_path / "evaluation")
    again = train(road, tmp_path / "again", *FLAT, "model.dropout=0.2", f"initial={tmp_path}/run/recommender")
    assert again["initial"]["items"]["shared"] == 80


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_network_of_transformers(road: Path, tmp_path: Path, kind: str) -> None:
    """It is served, and trained further, without the folder it began from."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `huggingface`")
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "t5":
        config = transformers.T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    else:
        config = transformers.LlamaConfig(vocab_size=30, hidden_size=16, intermediate_size=24, **sizes)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "network")
    words = ["model=huggingface", f"model.base={tmp_path}/network", "model.lora.rank=2"]
    train(road, tmp_path / "run", *words)
    train(road, tmp_path / "again", *words, "model.lora.dropout=0.1", f"initial={tmp_path}/run/recommender")
    (tmp_path / "network").rename(tmp_path / "gone")
    check_it_is_in_the_table(road, tmp_path / "again", tmp_path / "evaluation")
