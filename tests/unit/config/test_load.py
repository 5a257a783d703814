"""The loader: layers, variants, and one clear line for everything a user can get wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.config import finetune, recipe, schema, sources, training
from genrec.config.load import describe, load_config, to_plain, to_yaml
from genrec.errors import ConfigError

ROOTS = [
    value
    for name, value in {**vars(schema), **vars(training), **vars(recipe), **vars(finetune)}.items()
    if name.endswith("Config") and dataclasses.is_dataclass(value) and isinstance(value, type)
]
PREPARE = ["source=letter", "source.interactions=a.json", "output=out"]


def write(folder: Path, text: str, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def message(root: type, *dotlist: str, files: list[Path] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(root, files or [], list(dotlist))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_files_and_dotlist_win_in_this_order(tmp_path: Path) -> None:
    first = write(tmp_path, "dataset: a\noutput: b\ncutoffs: [1, 2]\nitem_knn: {window: 3, decay: 0.5}\n", "1.yaml")
    second = write(tmp_path, "output: c\nitem_knn: {decay: 0.6}\n", "2.yaml")
    config = load_config(schema.EvaluateConfig, [first, second], ["item_knn.backward=1", "cutoffs=[7]"])
    assert config.dataset == Path("a")
    assert config.output == Path("c")
    assert config.cutoffs == (7,)
    assert config.item_knn == schema.ItemKnnSection(window=3, decay=0.6, backward=1.0)
    assert config.seed == 0


def test_a_section_that_changes_its_name_starts_anew(tmp_path: Path) -> None:
    path = write(tmp_path, "source: {name: letter, interactions: a, codes: c}\noutput: o\n")
    config = load_config(schema.PrepareConfig, [path], ["source=table", "source.interactions=z.csv"])
    assert config.source == sources.TableSource(interactions="z.csv")
    kept = load_config(schema.PrepareConfig, [path], ["source.name=letter", "source.items=i"])
    assert kept.source == sources.LetterSource(interactions="a", codes="c", items="i")


def test_a_variant_without_its_name_is_that_of_the_default() -> None:
    config = load_config(schema.EmbedConfig, [], ["dataset=d", "output=o", "embedding.parts.text.dimensions=7"])
    assert isinstance(config.embedding, schema.CombinedEmbedding)
    assert config.embedding.parts["text"] == schema.TfidfEmbedding(dimensions=7)


def test_a_part_of_a_default_section_keeps_the_rest() -> None:
    config = load_config(schema.QuickstartConfig, [], ["source.num_users=50"])
    assert config.source == sources.SyntheticSource(num_users=50)


def test_a_part_of_the_default_combination_keeps_the_rest_unless_the_variant_is_named() -> None:
    words = ["dataset=d", "output=o"]
    default = load_config(schema.EmbedConfig, (), words).embedding
    assert isinstance(default, schema.CombinedEmbedding)
    changed = load_config(schema.EmbedConfig, (), [*words, "embedding.parts.signals.dimensions=12"]).embedding
    assert isinstance(changed, schema.CombinedEmbedding)
    assert changed.parts["text"] == default.parts["text"]
    assert changed.parts["signals"] == dataclasses.replace(default.parts["signals"], dimensions=12)
    named = load_config(schema.EmbedConfig, (), [*words, "embedding={name: combined, parts: {a: {name: tfidf}}}"])
    assert list(named.embedding.parts) == ["a"]


def test_named_parts() -> None:
    config = load_config(
        schema.EmbedConfig,
        [],
        [
            *("dataset=d", "output=o", "embedding=combined", "embedding.parts.a=tfidf"),
            *("embedding.parts.b=cooccurrence", "embedding.parts.b.weight=2"),
        ],
    )
    assert config.embedding == schema.CombinedEmbedding(
        parts={"a": schema.TfidfEmbedding(), "b": schema.CooccurrenceEmbedding(weight=2.0)}
    )


TEXTS = ["12", "1e3", "0012", "true", "null", "a b", "'12'", '"q"', " lead", "2024-01-01", "a=b", "*.parquet", "|", ","]


@pytest.mark.parametrize("text", [*TEXTS, "@x", "%p", "!t", "a: b", "{x}", "[1", "${HOME}", "&a"])
def test_text_on_the_command_line_stays_as_typed(text: str) -> None:
    config = load_config(schema.InspectUserConfig, [], ["dataset=d", f"user={text}"])
    assert config.user == text


def test_unknown_key_names_file_nearest_and_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, "dataset: a\noutput: b\nitem_knn: {windw: 3}\n")
    text = message(schema.EvaluateConfig, files=[path])
    assert text.startswith(f"{path}: unknown key 'item_knn.windw'; did you mean 'window'? (accepted: window, decay")
    assert "command line: unknown key 'outptu'; did you mean 'output'?" in message(schema.AuditConfig, "outptu=3")


def test_all_missing_values_are_reported_together() -> None:
    text = message(schema.EmbedConfig, "embedding=precomputed")
    assert "dataset (path), output (path), embedding.path (path)" in text
    assert "source (one of amazon_2014, " in message(schema.PrepareConfig, "output=x")
    assert "source.name (one of" in message(schema.PrepareConfig, "source.reviews=x", "output=x")


@pytest.mark.parametrize(
    ("root", "item", "expected"),
    [
        (schema.PrepareConfig, "filter.min_user_interactions=x", "(expected integer, found 'x')"),
        (schema.PrepareConfig, "filter.min_user_interactions=1.5", "(expected integer, found '1.5')"),
        (schema.PrepareConfig, "filter.min_user_interactions=true", "(expected integer, found 'true')"),
        (schema.PrepareConfig, "filter.min_user_interactions=-1", "out of range (expected at least 0, found -1)"),
        (schema.PrepareConfig, "filter.min_user_interactions=", "(expected integer, found nothing)"),
        (schema.PrepareConfig, "overwrite=1", "(expected true or false, found '1')"),
        (schema.PrepareConfig, "output=", "(expected path, found nothing)"),
        (schema.PrepareConfig, "output.deep=1", "key 'output' is not a section"),
        (schema.PrepareConfig, "expect=5", "(expected a section of keys, found '5')"),
        (schema.EvaluateConfig, "item_knn=five", "(expected a section of keys, found 'five')"),
        (schema.EvaluateConfig, "recommenders=runs/mine", "(expected names of your own, recommenders.NAME=..., found"),
        (schema.PrepareConfig, "order.by=random", "(expected one of timestamp, file, found 'random')"),
        (schema.PrepareConfig, "text.fields=[title, foo]", "(expected list of one of title"),
        (schema.PrepareConfig, "text.fields=title", "(expected list of one of title"),
        (schema.PrepareConfig, "split=temporl", "unknown split.name 'temporl'; did you mean 'temporal'?"),
        (schema.PrepareConfig, "split.name=[a]", "unknown split.name ['a']"),
        (schema.PrepareConfig, "overwrite", "cannot read 'overwrite' (expected key=value)"),
        (schema.PrepareConfig, "=3", "cannot read '=3' (expected key=value)"),
        (schema.PrepareConfig, "expect.users=[1", "cannot read the value of 'expect.users'"),
        (schema.PrepareConfig, "filter.min_rating=${nowhere}", "cannot read the value of 'filter.min_rating'"),
    ],
)
def test_wrong_values(root: type, item: str, expected: str) -> None:
    text = message(root, *(PREPARE if root is schema.PrepareConfig else ["dataset=d", "output=o"]), item)
    assert expected in text
    assert text.startswith("command line: ")


def test_ranges_hold_for_each_element_of_a_list() -> None:
    assert "expected at least 1, found 0" in message(schema.EvaluateConfig, "dataset=d", "output=o", "cutoffs=[1,0]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("output: x\noutput: y\n", ":2: not valid YAML: found duplicate key output"),
        ("output: {x\n", "not valid YAML"),
        ("- a\n", "not a configuration (expected a mapping of keys, found a list)"),
        ("output: ${oc.env:GENREC_NOT_SET}\n", "cannot resolve a value"),
    ],
)
def test_malformed_files_are_named_with_their_line(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    found = message(schema.PrepareConfig, files=[path])
    assert str(path) in found
    assert expected in found


def test_a_file_in_another_encoding_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes("output: Gerät\n".encode("latin-1"))
    assert "not UTF-8" in message(schema.PrepareConfig, files=[path])


def test_optional_text_and_whole_sections_on_the_command_line() -> None:
    config = load_config(
        schema.PrepareConfig, [], [*PREPARE, "card=null", "expect={users: 1, items: 2, interactions: 3}"]
    )
    assert config.card is None
    assert config.expect == schema.ExpectSection(users=1, items=2, interactions=3)
    assert load_config(schema.PrepareConfig, [], [*PREPARE, "raw_dir=~/x"]).raw_dir == Path.home() / "x"


def test_ranges_are_part_of_the_help() -> None:
    line = next(line for line in describe(schema.EvaluateConfig) if line.key == "confidence")
    assert line.type == "number, at least 0.5 and at most 0.999"


def test_an_absent_file_is_an_error(tmp_path: Path) -> None:
    assert "No such file" in message(schema.PrepareConfig, files=[tmp_path / "none.yaml"])


def test_environment_variables_and_other_keys_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_TEST_FOLDER", "somewhere")
    path = write(tmp_path, "dataset: ${oc.env:GENREC_TEST_FOLDER}/d\noutput: ${dataset}/e\n")
    assert load_config(schema.EvaluateConfig, [path]).output == Path("somewhere/d/e")


@given(
    window=st.integers(1, 99),
    decay=st.floats(0, 1),
    cutoffs=st.lists(st.integers(1, 500), min_size=1, max_size=4),
    path=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1).map(lambda s: f"d/{s}"),
)
def test_what_is_written_is_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, window: int, decay: float, cutoffs: list[int], path: str
) -> None:
    config = schema.EvaluateConfig(
        dataset=Path(path.replace("$", "S")),
        output=Path("o"),
        item_knn=schema.ItemKnnSection(window=window, decay=decay),
        cutoffs=tuple(cutoffs),
    )
    file = write(tmp_path_factory.mktemp("config"), to_yaml(config))
    assert load_config(schema.EvaluateConfig, [file]) == config


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_every_key_of_every_command_is_described(root: type) -> None:
    lines = list(describe(root))
    assert lines, root
    for line in lines:
        assert line.help, f"{root.__name__}.{line.key} has no help"
        assert line.type
    assert root.__doc__
    assert len({line.key for line in lines}) == len(lines)


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_configurations_are_frozen_and_plain(root: type) -> None:
    assert root.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_to_plain_holds_only_json_types() -> None:
    config = load_config(schema.PrepareConfig, [], PREPARE)
    plain = to_plain(config)
    assert plain["output"] == "out"
    assert plain["source"] == {"name": "letter", "interactions": "a.json", "items": None, "codes": None}
