"""What several end-to-end tests start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import works

MODEL = ["model.width=16", "model.hidden=32", "model.depth_hidden=16", "model.num_heads=2", "model.history_length=8"]
SHORT = ["stopping.max_epochs=2", "stopping.max_cases=40", "optimizer.batch_size=16", "accelerator=cpu"]


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset d of 80 items, embeddings e, semantic IDs s, run r of a recommender; not to be changed."""
    folder = tmp_path_factory.mktemp("road")
    size = ["source.num_users=150", "source.num_items=80", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works("embed", f"dataset={folder}/d", f"output={folder}/e", "embedding=tfidf", "embedding.dimensions=16")
    words = ["tokenizer=residual_kmeans", f"tokenizer.embeddings={folder}/e", "tokenizer.codebook_sizes=[12,12,12]"]
    works("tokenize", f"dataset={folder}/d", f"output={folder}/s", *words)
    works("train", f"dataset={folder}/d", f"semantic_ids={folder}/s", f"run={folder}/r", *MODEL, *SHORT)
    return folder
