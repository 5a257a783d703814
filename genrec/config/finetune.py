"""The configuration of ``finetune``: policy optimisation of a trained recommender. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genrec.config.fields import key
from genrec.config.training import OptimizerSection, ValueGuidedSection


def _std_floor() -> Any:
    return key("least standard deviation that advantages are divided by", 0.0, minimum=0)


def _optimizer() -> OptimizerSection:
    return OptimizerSection(learning_rate=1e-4, warmup=0.1)


@dataclass(frozen=True, kw_only=True)
class RolloutSection:
    """Where the candidates of a request come from."""

    method: Literal["beam", "sample", "stochastic_beam", "siblings", "value_guided"] = key(
        "a beam search, samples with or without replacement, alternatives behind one prefix, or a search by value",
        "beam",
    )
    num_candidates: int = key("candidates of a request", 16, minimum=2)
    temperature: float = key("of what is drawn; above 1 the improbable becomes more probable", 1.0, minimum=1e-3)
    updates: int = key("steps on the same requests and candidates", 1, minimum=1)
    value_guided: ValueGuidedSection = key("the search by value", ValueGuidedSection)


@dataclass(frozen=True, kw_only=True)
class HintSection:
    """The first codes of the target, given to requests that would hardly find it otherwise."""

    share: float = key("of the requests, at the first step", 0.0, minimum=0, maximum=1)
    over: float = key("share of the steps over which this falls to 0", 0.5, minimum=1e-6, maximum=1)
    max_length: int | None = key("most codes of a hint, which leaves a choice; null: all but the last", None, minimum=1)


@dataclass(frozen=True, kw_only=True)
class RewardSection:
    """Weights of the rewards; the reward is their weighted mean."""

    exact_hit: float = key("1 for the target", 1.0, minimum=0)
    rank_discounted: float = key(
        "less for a wrong candidate, the higher it stands, where the target is found", 0.0, minimum=0
    )
    prefix_depth: float = key("share of the leading codes that are the target's", 0.0, minimum=0)
    embedding_similarity: float = key("cosine to the target; needs `embeddings`", 0.0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class GroupAdvantage:
    """GRPO: a candidate against the others of its request."""

    name: Literal["group"] = "group"
    std_floor: float = _std_floor()


@dataclass(frozen=True, kw_only=True)
class SiblingAdvantage:
    """V-STAR: a code against those that other candidates have in its place; alone, without the group's."""

    name: Literal["sibling"] = "sibling"
    std_floor: float = _std_floor()


@dataclass(frozen=True, kw_only=True)
class ForkAdvantage:
    """PORTool: a mixture of the two, undivided."""

    name: Literal["fork"] = "fork"
    group_share: float = key("share of the group's", 0.5, minimum=0, maximum=1)
    std_floor: float = _std_floor()


@dataclass(frozen=True, kw_only=True)
class TreeTdAdvantage:
    """TEMPO: the group's, and what the mean reward below a prefix gains with each code."""

    name: Literal["tree_td"] = "tree_td"
    std_floor: float = _std_floor()


@dataclass(frozen=True, kw_only=True)
class PotentialAdvantage:
    """SPAE: the group's, and what the probability of the target below a prefix gains with each code."""

    name: Literal["potential"] = "potential"
    kappa: float = key("weight of the gain", 1.0, minimum=0)
    limit: float = key("largest gain", 1.0, minimum=1e-6)
    ceiling: float = key("no gain behind a prefix as good as this", 1.0, minimum=0, maximum=1)
    std_floor: float = _std_floor()


@dataclass(frozen=True, kw_only=True)
class ProgressAdvantage:
    """SPA: the reward shared out among the codes, by how much of the rewards' variance each one decides."""

    name: Literal["progress"] = "progress"
    is_centred: bool = key("share out the group's advantage in place of the reward, which has no baseline", True)
    std_floor: float = _std_floor()


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """Clipped policy gradient."""

    name: Literal["policy_gradient"] = "policy_gradient"
    sibling_weight: float = key("alpha, of the sibling advantages beside `advantage`", 0.0, minimum=0)
    ratio: Literal["token", "prefix_min", "sequence"] = key("what is clipped", "token")
    clipping: Literal["ppo", "ecpo"] = key("how; ecpo bounds bad codes too, on the ratio of tokens", "ppo")
    low: float = key("a ratio below 1 - low is not lowered further", 0.2, minimum=1e-6, maximum=0.999)
    high: float = key("a ratio above 1 + high is not raised further", 0.2, minimum=1e-6)
    delta: float = key("of ecpo", 0.1, minimum=0)


@dataclass(frozen=True, kw_only=True)
class StepPreference:
    """DPO on single codes: the best sibling against each worse one."""

    name: Literal["step_preference"] = "step_preference"
    beta: float = key("sharpness", 0.1, minimum=1e-6)
    margin: float = key("how much worse a sibling's mean reward has to be", 0.0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class KlSection:
    """What holds the policy near a reference."""

    weight: float = key("beta, of the divergence from the reference", 0.05, minimum=0)
    estimator: Literal["exact", "sampled"] = key(
        "over all children of the visited nodes, or of the candidates' codes (k3, for drawn ones only)", "exact"
    )
    refresh_every: int | None = key("steps after which the policy becomes the reference; null: never", None, minimum=1)


@dataclass(frozen=True, kw_only=True)
class PrefixSection:
    """Progressive prefixes (PPPO): first codes first."""

    over: float = key(
        "share of the steps over which the codes come to count, in turn; 0: all at once", 0.0, minimum=0, maximum=1
    )
    floor: float = key("weight of a code whose time has not come", 0.0, minimum=0, maximum=1)


@dataclass(frozen=True, kw_only=True)
class ValueSection:
    """The value head; trained with mode=value and with value-guided rollouts, or where `train` says so."""

    train: bool = key("train it beside the policy, even if the rollouts do not need it", False)
    hidden: int = key("width of its residual networks; of a head that is there already, its own counts", 256, minimum=1)
    num_layers: int = key("residual networks; likewise", 1, minimum=1)
    reads_log_prob: bool = key("tell it how probable a prefix is; likewise", True)
    gamma: float = key("discount", 0.99, minimum=0, maximum=1)
    learning_rate: float = key("highest rate", 1e-3, minimum=0)


@dataclass(frozen=True, kw_only=True)
class FinetuneStopping:
    """How long to train, and which weights are kept."""

    max_epochs: int = key("passes over the requests", 1, minimum=1)
    validate_every: int | None = key("steps between validations and checkpoints; null: an epoch", None, minimum=1)
    patience: int | None = key("validations without improvement before stopping; null: never", 6, minimum=1)
    keep: Literal["best", "last"] = key(
        "weights that are kept: the best on validation, those of the start among them, or the last (never early)",
        "best",
    )
    metric: Literal["recall", "ndcg"] = key("what is maximised on validation", "recall")
    cutoff: int = key("its k", 10, minimum=1)
    beam_width: int = key("beams of the validating search, whose lists are as long", 50, minimum=1)
    max_cases: int | None = key("validation cases looked at; null: all", 5000, minimum=1)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A trained generative recommender -> one that was rewarded for what it recommends."""

    dataset: Path = key("folder of the prepared dataset that the recommender was trained on")
    initial: Path = key("folder of the recommender")
    run: Path = key("run folder; the recommender is in <run>/recommender")
    mode: Literal["policy", "value"] = key("tune the policy, or train its value head alone", "policy")
    embeddings: Path | None = key("folder of item embeddings, for values and similarities; null: none", None)
    targets: Literal["all", "last"] = key(
        "requests: the history before each training target, or before a user's last", "all"
    )
    rollout: RolloutSection = key("where candidates come from", RolloutSection)
    hints: HintSection = key("prefixes of the target", HintSection)
    rewards: RewardSection = key("what candidates are worth", RewardSection)
    advantage: (
        GroupAdvantage | SiblingAdvantage | ForkAdvantage | TreeTdAdvantage | PotentialAdvantage | ProgressAdvantage
    ) = key("what makes a code better than its alternatives", GroupAdvantage)
    objective: PolicyGradient | StepPreference = key("how the policy learns from it", PolicyGradient)
    kl: KlSection = key("nearness to a reference", KlSection)
    anchor: float = key("weight of the cross-entropy of the target", 0.1, minimum=0)
    prefixes: PrefixSection = key("which codes count when", PrefixSection)
    value: ValueSection = key("the value head", ValueSection)
    dropout: bool = key("the model's dropout in the loss; ratios then are not 1 at the first update", False)
    optimizer: OptimizerSection = key("how weights change", _optimizer)
    stopping: FinetuneStopping = key("how long to train", FinetuneStopping)
    interpolation: tuple[float, ...] = key(
        "shares of the tuned weights between the initial and the tuned ones, the best on validation is taken; []: none",
        (0.0, 0.25, 0.5, 0.75, 1.0),
        minimum=0,
        maximum=1,
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = key("numbers of the forward pass", "32-true")
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = key("device", "auto")
    seed: int = key("seed of batches, rollouts and dropout", 0, minimum=0)
