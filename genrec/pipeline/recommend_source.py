"""``genrec recommend`` reads a recommender or a bundle; the keys of the one mean nothing to the other."""

from __future__ import annotations

from dataclasses import replace

from genrec.config.training import RecommendConfig, SearchSection
from genrec.errors import ConfigError

OF_RECOMMENDERS = ("dataset", "recommender", "semantic_ids", "histories")
OF_BUNDLES = ("users", "exclude", "allow_tags")


def check_source(config: RecommendConfig) -> None:
    """Raises ConfigError unless all that one of the two needs is given, and nothing of the other."""
    if config.bundle is None:
        missing = [name for name in ("dataset", "recommender") if getattr(config, name) is None]
        if missing:
            fix = "set recommender=... and dataset=..., or bundle=... and users=..."
            raise ConfigError("missing values: " + ", ".join(missing), fix=fix)
        given = [name for name in OF_BUNDLES if getattr(config, name) is not None]
        given += [name for name in ("shards", "num_threads") if getattr(config, name) != 1]
        given += ["deny_tags"] if config.deny_tags else []
        if given:
            raise ConfigError(
                "only a bundle has these keys", where=", ".join(given), fix="leave them out, or set bundle=..."
            )
        return
    if config.users is None:
        raise ConfigError("missing values: users", where="key 'bundle'", fix="set users=users.parquet")
    given = [name for name in OF_RECOMMENDERS if getattr(config, name) is not None]
    if replace(config.search, batch_size=SearchSection().batch_size) != SearchSection():
        given.append("search")  # what the exported graph does was decided when it was exported
    if given:
        raise ConfigError("a bundle has all this in itself", where=", ".join(given), fix="leave them out")
