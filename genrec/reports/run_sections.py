"""Sections of a report about a run: what was run, on which data, with which semantic IDs, and how it learnt.

Plain facts of the artifacts' JSON files in, HTML out; must not know folders or configuration classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genrec.reports.charts import Series, lines, short
from genrec.reports.html import Html, data_uri, element, facts, section, table

Record = Mapping[str, Any]
MASK_WORDS = {"none": "no mask", "seen": "seen items masked"}


def missing(title: str, name: str, what: str, command: str) -> Html:
    """In place of a section: what is not there, and what makes it."""
    text = [what, " It is made by ", element("code", command), "."]
    return section(title, name, element("p", text, class_="missing"))


def overview(
    title: str, verdicts: Sequence[str], cards: Sequence[tuple[str, str, str]], names: Mapping[str, str]
) -> Html:
    """The head of the page: what it is about, what can be said, a few numbers, and the way to the sections."""
    return element(
        "header",
        element("button", "light / dark", type="button", id="theme", hidden=True),
        element("h1", title),
        [element("p", verdict, class_="verdict") for verdict in verdicts],
        element(
            "div",
            [
                element("div", element("span", label), element("b", value), element("span", note), class_="card")
                for label, value, note in cards
            ],
            class_="cards",
        ),
        element("nav", [element("a", own, href=f"#{name}") for name, own in names.items()], aria_label="Sections"),
    )


def lineage(
    environment: Record, status: Record, configuration: str, parents: Sequence[tuple[str, str, str]], source: Any
) -> Html:
    """Command, software, machine, and every artifact that the run or the evaluation was made from."""
    command = " ".join(["genrec", *environment.get("command_line", [])[1:]]) if environment else None
    packages = ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items()) or None
    memory = environment.get("memory_bytes")
    pairs = [
        ("command", None if command is None else element("code", command)),
        ("started, last written", f"{status['started']}, {status['updated']}" if status else None),
        ("state", f"{status['status']}, resumed {status['num_resumed']} times" if status else None),
        ("code", environment.get("git_commit")),
        ("genrec, Python", f"{environment['genrec']}, {environment['python']}" if environment else None),
        ("packages", packages),
        ("machine", f"{environment['platform']}, {environment['cpu_usable']} CPUs usable" if environment else None),
        ("memory", None if memory is None else f"{memory / 2**30:.1f} GiB"),
    ]
    rows = [(role, kind, element("code", identity[:16])) for role, kind, identity in parents]
    shown = None
    if configuration:
        shown = element("details", element("summary", "Configuration"), element("pre", configuration))
    made = table("Made from (sha256 of the content)", ("role", "kind", "identity"), rows, left=3) if rows else None
    return section("What was run", "lineage", facts(pairs), made, shown, source=source)


def data(audit: Record, source: Any) -> Html:
    """Counts, leaks, cold items and skew of the dataset."""
    counts, cold, popularity = audit["counts"], audit["cold"], audit["popularity"]
    rows = [(name, f"{counts[name]:,}") for name in ("users", "items", "interactions", "train", "validation", "test")]
    rows.append(("density", f"{counts['density']:.4%}"))
    events = (("events of a user", counts["events_per_user"]), ("events of an item", counts["events_per_item"]))
    spread = [
        (label, *(f"{entry[name]:,.0f}" for name in ("min", "median", "p90", "max")), f"{entry['mean']:.1f}")
        for label, entry in events
    ]
    leaks = audit["leaks"]
    checks = [
        ("targets in their own history", _pair(leaks["target_in_own_history"])),
        ("training events after an evaluation event of the same user", f"{leaks['train_after_evaluation']:,}"),
        ("targets never seen in training", _pair(cold["unseen_targets"])),
        ("items never seen in training", f"{cold['unseen_items']:,}"),
        ("users with repeats", f"{audit['duplicates']['users_with_repeats']:,}"),
        ("Gini coefficient of the items' popularity", short(popularity["gini"])),
        ("events on the most popular tenth of the items", f"{popularity['top_10_percent']:.1%}"),
    ]
    body = [
        element(
            "div",
            [table("Size", ("what", "number"), rows), table("Checks", ("what", "found"), checks)],
            class_="figures",
        ),
        table("Events", ("of", "least", "median", "90 %", "most", "mean"), spread),
    ]
    return section("Data", "data", body, source=source)


def _pair(values: Mapping[str, int] | None) -> str:
    return "not known" if values is None else ", ".join(f"{value:,} in {name}" for name, value in values.items())


def identifiers(health: Record, drawings: Sequence[tuple[str, bytes]], source: Any) -> Html:
    """The semantic IDs: sizes, collisions, use of the codes, titles of some prefixes, figures of the artifact."""
    collisions = health["collisions"]
    pairs = [
        ("items", f"{health['num_items']:,}"),
        ("codes of the levels", " x ".join(str(size) for size in health["codebook_sizes"])),
        (
            "items that share all codes",
            f"{collisions['items']:,} ({collisions['rate']:.2%} collisions) before they were resolved",
        ),
    ]
    columns = ("level", "codes", "used", "dead", "perplexity", "of the most")
    rows = [
        (
            level["level"],
            f"{level['size']:,}",
            f"{level['used']:,}",
            f"{level['dead']:,}",
            short(level["perplexity"]),
            f"{level['perplexity_share']:.0%}",
        )
        for level in health["levels"]
    ]
    body: list[Any] = [facts(pairs), table("Use of the codes", columns, rows)]
    proxy = (health.get("proxy") or {}).get("last")
    if proxy and proxy["num_targets"]:
        points = {"found": [(d["depth"], d["share"]) for d in proxy["depths"]]}
        points["by chance"] = [(d["depth"], d["by_chance"]) for d in proxy["depths"]]
        drawn = [Series(name, own) for name, own in points.items()]
        depths = [depth for depth, _ in points["found"]]
        title = "Next items that share the first codes of the last item"
        body.append(
            lines(title, "proxy_chart", drawn, x_label="codes", y_label="share", from_zero=True, x_ticks=depths)
        )
    examples = [
        (" ".join(map(str, entry["prefix"])), f"{entry['num_items']:,}", "; ".join(_titles(entry["items"])))
        for entry in health.get("examples") or []
    ]
    if examples:
        rows = [(prefix, titles, number) for prefix, number, titles in examples]
        body.append(table("Some prefixes and what is below them", ("prefix", "items", "number"), rows, left=2))
    if drawings:
        images = [
            element(
                "img", src=data_uri(content, "image/svg+xml"), alt=f"Figure {name} of the semantic IDs", loading="lazy"
            )
            for name, content in drawings
        ]
        body.append(element("details", element("summary", "More figures of the semantic IDs"), images))
    return section("Semantic IDs", "semantic-ids", body, source=source)


def _titles(items: Sequence[Record]) -> list[str]:
    return [str(item.get("title") or item["item_id"])[:70] for item in items[:4]]


def training(records: Sequence[Record], metrics: Sequence[str], best_step: int | None, source: Any) -> Html:
    """Loss of training, metrics of validation, by step."""
    figures = []
    trained = [record for record in records if "train_loss" in record]
    mark = None if best_step is None else (float(best_step), "kept")
    if trained:
        parts = [name for name in ("train_loss", "train_nll") if all(name in record for record in trained)]
        if len(parts) == 2 and all(record["train_loss"] == record["train_nll"] for record in trained):
            parts = parts[:1]
        drawn = [Series(name.replace("_", " "), [(r["step"], r[name]) for r in trained]) for name in parts]
        figures.append(lines("Loss of training", "loss", drawn, x_label="step", y_label="loss", mark=mark))
    found = [name for name in metrics if all(name in record for record in records)]
    for name in found:
        drawn = [Series(name, [(record["step"], record[name]) for record in records])]
        title = f"{name} on validation"
        file = f"validation_{name.replace('@', '_at_')}"
        figures.append(lines(title, file, drawn, x_label="step", y_label=name, mark=mark))
    return section("Training", "training", element("div", figures, class_="figures"), source=source)


POLICY_CURVES = (
    ("reward and its parts", ("reward", "reward_exact_hit", "reward_prefix_depth", "reward_rank_discounted")),
    (
        "requests with the target among the candidates, and without a signal",
        ("hit_share", "zero_signal_share", "hint_share"),
    ),
    ("divergence from the reference", ("kl",)),
    ("entropy of the policy", ("entropy",)),
)


def policy(records: Sequence[Record], source: Any) -> Html:
    """The safety panel of a policy optimisation: what it gains in reward, and what it may lose."""
    figures = []
    trained = [record for record in records if "train_reward" in record]
    for title, names in POLICY_CURVES:
        known = [name for name in names if all(f"train_{name}" in record for record in trained)]
        if trained and known:
            drawn = [
                Series(name.replace("_", " "), [(r["step"], r[f"train_{name}"]) for r in trained]) for name in known
            ]
            file = title.split(" ")[0].strip(",")
            figures.append(
                lines(title.capitalize(), f"policy_{file}", drawn, x_label="step", y_label="mean of the steps")
            )
    panel = sorted(
        {name for record in records for name in record if "@" in name and not name.startswith("train_")},
        key=lambda name: (name.split("@")[0], int(name.split("@")[1])),
    )
    rows = [(record["step"], *(short(record[name]) if name in record else "" for name in panel)) for record in records]
    body = [element("div", figures, class_="figures")]
    if panel and rows:
        body.append(table("On validation, by step; step 0 is before", ("step", *panel), rows))
    return section("Policy optimisation", "policy", body, source=source)


def cost(pairs: Sequence[tuple[str, str | None]], source: Any) -> Html:
    """Time, size, and what a request costs."""
    return section("Cost", "cost", facts(pairs), source=source)


def ends(files: Sequence[tuple[str, str]], version: str) -> Html:
    """What the page was made from: every number on it is in one of these files."""
    rows = [(name, element("code", digest)) for name, digest in files]
    listed = element("details", element("summary", "Files"), table("sha256", ("file", "sha256"), rows, left=2))
    return element(
        "footer",
        element("p", f"Written by genrec {version} from {len(files)} files, unchanged.", class_="source"),
        listed,
    )
