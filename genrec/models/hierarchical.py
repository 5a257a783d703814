"""The hierarchical recommender: a causal transformer over items, and a small decoder over the codes of the next one.

docs/methods.md section 2. A history of T items is T positions, each of which predicts the item after it in the same
pass:

    x_t = sum_l C_l[c_l(i_t)] + I[i_t],   u_t = norm(transformer(x_1 .. x_t)) + sum_{s <= t} g^(t - s) J[i_s]

with code embeddings C (not those of the decoder), item-ID embeddings I, transition embeddings J and a learnt g in
(0, 1); what follows from u_t is in `code_decoder`. J is ours: a way past the blocks for what one item says of the next.
On demand, x_t has more vectors: of what is known of the item (`item_features`), of the time since the event before it
(`gap_buckets`; none where times are not known), and of its position t. Positions count from the first item read: a
window has one beginning but an end for each of its targets, so that training in one pass and `encode` agree on no
other. Distances from the end are what rotary attention and g^(t - s) see.
Must not know configuration, losses, search or training.
"""
# B batch, T items, P targets, L levels, D width, N items of the catalogue, W beams, M most children of a node

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from genrec.data.gaps import NUM_GAPS
from genrec.models.code_decoder import CodeDecoder, DecoderState, Users
from genrec.models.item_features import FeatureValues, ItemFeatures, blank_features
from genrec.models.node_embeddings import NodeEmbeddings, adapt_state, keep_rows, mark_rows, normal_table
from genrec.models.recommender import (
    ItemScores,
    ParameterGroup,
    check_levels,
    group_parameters,
    read_settings,
    score_each_target,
)
from genrec.models.rows import last_items
from genrec.models.settings import HierarchicalSettings, MemorySettings
from genrec.models.transformer import NORM_EPS, Block, Dropout
from genrec.models.transition_memory import TransitionMemory, strongest, sum_in_trie_order
from genrec.semantic_ids.trie import SemanticIdTrie


class HierarchicalRecommender(nn.Module):
    """A `Recommender`; see the module for the equations.

    An empty history is one position with a vector of its own. I and J of an item that training does not show in
    histories are 0. With a memory, `remember` comes before training.

    Args:
        trie: the catalogue; moves with the module.
        settings: size and kind.
        features: what the `item_features` of the settings say of the items.
    """

    name = "hierarchical"
    item_is_trained: Tensor

    def __init__(
        self,
        trie: SemanticIdTrie,
        settings: HierarchicalSettings,
        features: Mapping[str, FeatureValues] | None = None,
    ) -> None:
        super().__init__()
        assert set(features or ()) == set(settings.item_features), "item features without values, or the reverse"
        self.trie, self.settings = trie, settings
        width = settings.width
        self.code_embeddings = nn.ParameterList(normal_table(size, width) for size in trie.codebook_sizes)
        has_items, num_items = settings.item_embeddings, trie.num_items
        self.item_embeddings = nn.Parameter(torch.zeros(num_items, width)) if has_items else None
        self.register_buffer("item_is_trained", torch.zeros(num_items, dtype=torch.bool))
        # J starts at 0, so that training begins with the blocks alone; sigmoid(0) makes g 1/2.
        has_transitions = settings.transition_embeddings
        self.transition_embeddings = nn.Parameter(torch.zeros(num_items, width)) if has_transitions else None
        self.transition_decay = nn.Parameter(torch.zeros(())) if has_transitions else None
        self.memory = None
        if settings.memory.followers:
            self.memory = TransitionMemory(num_items, trie.num_levels, settings.memory)
        # These start at 0: training begins as it does without them.
        self.features = ItemFeatures(features, width) if features else None
        has_vectors = settings.positions != "rotary"
        self.positions = nn.Parameter(torch.zeros(settings.history_length, width)) if has_vectors else None
        self.gaps = nn.Parameter(torch.zeros(NUM_GAPS, width)) if settings.time_gaps else None
        self.empty_history = normal_table(width)
        self.input_dropout = Dropout(settings.dropout_input)
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads=settings.num_heads,
                hidden=settings.hidden,
                max_length=None if settings.positions == "learnt" else settings.history_length,
                activation=settings.activation,
                attention=settings.attention,
                dropout=settings.dropout_blocks,
            )
            for _ in range(settings.num_layers)
        )
        self.user_norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.decoder = CodeDecoder(trie, settings)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / (3 * module.in_features**0.5))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], trie: SemanticIdTrie) -> HierarchicalRecommender:
        """An untrained model of the size that `facts` describe, for any catalogue of the same levels.

        Raises:
            ConfigError: unknown key or value.
            LineageError: a trie of other levels.
        """
        memory = read_settings(MemorySettings, facts.get("memory", {}))
        # Recommenders of before there were transition embeddings do not say that they have none.
        values = {"transition_embeddings": False, **facts, "memory": memory}
        values["item_features"] = tuple(facts.get("item_features", ()))
        features = values.pop("features", {})
        settings = read_settings(HierarchicalSettings, values)
        check_levels(facts, trie)
        return cls(trie, settings, blank_features(features, trie.num_items))

    @property
    def facts(self) -> dict[str, Any]:
        """Kind, levels and settings, as plain JSON values."""
        known = {} if self.features is None else {"features": self.features.facts}
        return {"name": self.name, "codebook_sizes": list(self.trie.codebook_sizes), **asdict(self.settings), **known}

    @property
    def normalisation(self) -> str:
        """ "trie" or "vocabulary"."""
        return self.settings.normalisation

    @property
    def uses_gaps(self) -> bool:
        """Whether it reads the time between events."""
        return self.gaps is not None

    @property
    def node_embeddings(self) -> NodeEmbeddings:
        """Of the decoder."""
        return self.decoder.node_embeddings

    @property
    def code_tables(self) -> list[nn.Parameter]:
        """Of the history and of the decoder."""
        return [*self.code_embeddings, *self.decoder.code_embeddings, *self.decoder.output_codes]

    def mark_trained(self, history_items: Bool[Tensor, " N"], target_items: Bool[Tensor, " N"]) -> None:
        """Lets the item-ID embeddings of `history_items` and the nodes on the paths of `target_items` count.

        To be called before training, which would leave both without effect otherwise. What counted before still does.
        """
        mark_rows(self.item_embeddings, self.item_is_trained, history_items)
        items = target_items.to(self.trie.device).nonzero().squeeze(1)
        self.node_embeddings.mark_trained(self.trie.path_nodes(items))

    def remember(self, similarity: csr_matrix, counts: np.ndarray) -> None:
        """Fills the memory from item-kNN's C [N, N] and the training interactions [N] of each item."""
        assert self.memory is not None, "a model without a memory"
        neighbours, weights = strongest(similarity, self.memory.neighbours.shape[1])
        tensors = (torch.from_numpy(array).to(self.trie.device) for array in (neighbours, weights, counts))
        self.memory.remember(*tensors)

    def parameter_groups(
        self, *, weight_decay: float, node_weight_decay: float = 0.0, item_weight_decay: float = 0.0
    ) -> list[ParameterGroup]:
        """All parameters, each once; see `group_parameters`."""
        items = [table for table in (self.item_embeddings, self.transition_embeddings) if table is not None]
        items += [] if self.features is None else self.features.parameters()
        decays = (weight_decay, node_weight_decay, item_weight_decay)
        return group_parameters(self, nodes=self.node_embeddings.parameters(), items=items, decays=decays)

    def load_adapted(self, state: Mapping[str, Tensor], places: Int64[Tensor, " _"]) -> None:
        """Loads the weights of the same model over another version of the catalogue.

        Node vectors follow the codes of their prefixes. New nodes and items start at 0 and do not count until
        `mark_trained` says so. What a memory holds is not moved: `remember` comes afterwards, or
        `TransitionMemory.take_over`. What features say of the items stays what it is here; their vocabularies begin
        with those of the other model.

        Args:
            state: `state_dict` of the other model.
            places: item_index here of each item there, -1 where it is gone.
        """
        nodes = ("decoder.node_embeddings", self.node_embeddings)
        items = ("item_embeddings", "transition_embeddings", "item_is_trained")
        adapted = adapt_state(state, places, self.trie, nodes=nodes, items=items)
        # The memory is made anew of the newer data; only its gains and floors are learnt.
        if self.memory is not None:
            adapted |= {f"memory.{name}": own for name, own in self.memory.named_buffers()}
        if self.features is not None:
            tables = {f"features.{name}": own for name, own in self.features.named_parameters()}
            adapted |= {name: keep_rows(state[name], own) for name, own in tables.items()}
            adapted |= {f"features.{name}": own for name, own in self.features.named_buffers()}
        if self.positions is not None:
            adapted["positions"] = keep_rows(state["positions"], self.positions)
        self.load_state_dict(adapted)

    def score_targets(
        self,
        histories: Int64[Tensor, "B T"],
        targets: Int64[Tensor, "B T"],
        *,
        with_means: bool = False,
        gaps: Int64[Tensor, "B T"] | None = None,
    ) -> ItemScores:
        """Log-probability of each code of each target; see `Recommender`. T is at most `history_length`."""
        return score_each_target(self, histories, targets, with_means=with_means, gaps=gaps)

    def read_positions(
        self,
        histories: Int64[Tensor, "B T"],
        targets: Int64[Tensor, "B T"],
        *,
        gaps: Int64[Tensor, "B T"] | None = None,
    ) -> Users:
        """The state of each user wherever there is a target; a memory hides the future in *its* training mode."""
        assert not self.training or bool(self.item_is_trained.any()), "mark_trained comes before training"
        is_target = targets >= 0
        users, sums = self._read(histories, gaps)[is_target], None
        if self.memory is not None:
            scores = self.memory.scores(histories, targets if self.memory.training else None)
            sums = sum_in_trie_order(self.trie, scores[is_target])
        return Users(users, sums)

    def score_items(self, context: Users, items: Int64[Tensor, "P C"], *, with_means: bool = False) -> ItemScores:
        """Log-probability of each code of C items after each position; see `Recommender`."""
        return self.decoder.score_items(self.trie, context, items, self.memory, with_means=with_means)

    def encode(
        self,
        histories: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"],
        *,
        gaps: Int64[Tensor, "B T"] | None = None,
    ) -> Users:
        """The state of each user after the last `history_length` items."""
        if gaps is not None:
            gaps, _ = last_items(gaps, lengths, self.settings.history_length)
        histories, lengths = last_items(histories, lengths, self.settings.history_length)
        if histories.shape[1] == 0:
            histories, gaps = histories.new_full((len(histories), 1), -1), None
        users, sums = self._read_last(histories, (lengths - 1).clamp(min=0), gaps), None
        if self.memory is not None:
            sums = sum_in_trie_order(self.trie, self.memory.last_scores(histories, lengths))
        return Users(users, sums)

    def request_states(self, context: Users) -> Float[Tensor, "B D"]:
        """u of each request."""
        return context.state

    def start(self, context: Users) -> tuple[Float[Tensor, "B 1 M"], DecoderState]:
        """Log-probabilities of the children of the root."""
        return self.decoder.start(self.trie, context, self.memory)

    def step(
        self,
        level: int,
        state: DecoderState,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], DecoderState]:
        """Log-probabilities of the children of each beam's node; see `Recommender`."""
        return self.decoder.step(self.trie, level, state, parents, codes, nodes, self.memory)

    def _read(
        self, histories: Int64[Tensor, "B T"], gaps: Int64[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """State after each item. What stands behind the end of a row cannot be seen from within it."""
        assert histories.shape[1] <= self.settings.history_length, "histories longer than history_length"
        x = self._inputs(histories, gaps)
        for block in self.blocks:
            x = block(x)
        x = self.user_norm(x)
        if self.transition_embeddings is None:
            return x
        places = torch.arange(histories.shape[1], device=x.device)
        return x + self._decayed(places.unsqueeze(1) - places).to(x.dtype) @ self._transitions(histories)

    def _read_last(
        self, histories: Int64[Tensor, "B T"], places: Int64[Tensor, " B"], gaps: Int64[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B D"]:
        """State at one position of each row; the last block is not computed anywhere else."""
        x = self._inputs(histories, gaps)
        for block in self.blocks[:-1]:
            x = block(x)
        if len(self.blocks):
            last = self.blocks[-1]
            assert isinstance(last, Block)
            x = last.at(x, places)
        else:
            x = x[torch.arange(x.shape[0], device=x.device), places]
        x = self.user_norm(x)
        if self.transition_embeddings is None:
            return x
        ages = places.unsqueeze(1) - torch.arange(histories.shape[1], device=x.device)
        return x + (self._decayed(ages).to(x.dtype).unsqueeze(1) @ self._transitions(histories)).squeeze(1)

    def _transitions(self, histories: Int64[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """J of each item, 0 at padding."""
        assert self.transition_embeddings is not None
        items = histories.clamp(min=0)
        vectors = F.embedding(items, self.transition_embeddings)
        return self.input_dropout(vectors * (self.item_is_trained[items] & (histories >= 0)).unsqueeze(-1))

    def _decayed(self, ages: Int64[Tensor, "*B T"]) -> Float[Tensor, "*B T"]:
        """g^age, 0 for what is still to come."""
        assert self.transition_decay is not None
        return self.transition_decay.sigmoid() ** ages.clamp(min=0) * (ages >= 0)

    def _inputs(self, histories: Int64[Tensor, "B T"], gaps: Int64[Tensor, "B T"] | None) -> Float[Tensor, "B T D"]:
        is_item, x = (histories >= 0).unsqueeze(-1), self._embed(histories.clamp(min=0))
        if self.positions is not None:
            x = x + self.positions[: histories.shape[1]]
        if self.gaps is not None and gaps is not None:
            x = x + self._embed_gaps(gaps)
        return self.input_dropout(torch.where(is_item, x, self.empty_history))

    def _embed_gaps(self, gaps: Int64[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Vectors of the gaps; in training 0 in some rows, as if nothing were known of their times."""
        assert self.gaps is not None
        vectors = F.embedding(gaps.clamp(min=0), self.gaps)
        if not self.training:
            return vectors
        is_known = torch.rand(len(gaps), 1, 1, device=gaps.device) >= self.settings.dropout_gaps
        return vectors * is_known

    def _embed(self, items: Int64[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        paths = self.trie.path_nodes(items)
        parts = [
            F.embedding(self.trie.child_codes[level][paths[..., level]], table)
            for level, table in enumerate(self.code_embeddings)
        ]
        if self.item_embeddings is not None:
            parts.append(F.embedding(items, self.item_embeddings) * self.item_is_trained[items].unsqueeze(-1))
        if self.features is not None:
            parts.append(self.features(items))
        return functools.reduce(torch.add, parts)

    def _apply(self, fn: Any, recurse: bool = True) -> HierarchicalRecommender:
        """Takes the trie along wherever the parameters go."""
        super()._apply(fn, recurse)
        self.trie = self.trie.to(self.empty_history.device)
        return self
