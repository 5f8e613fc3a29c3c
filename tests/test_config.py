"""The configuration: strict, typed, and helpful when it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from streamer.config import Config, format_bytes, load_config, parse_bytes
from streamer.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "a.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(folder: Path, text: str, *overrides: str) -> list[str]:
    path = write(folder, text)
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value).replace(f"{path}", "a.yaml").splitlines()


MINIMAL = "store: photos.store\nsource: {folder: photos}\n"


def test_two_lines_are_enough_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert config.store == tmp_path / "photos.store"
    assert config.source.folder == tmp_path / "photos"
    assert (config.memory.budget, config.search.k, config.backbone.weights) == (2**30, 10, "auto")


def test_home_and_environment_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTOS", str(tmp_path / "elsewhere"))
    config = load_config(write(tmp_path, "store: ~/a.store\nsource: {folder: $PHOTOS/2026}\n"))
    assert config.store == Path.home() / "a.store"
    assert config.source.folder == tmp_path / "elsewhere" / "2026"


def test_an_unset_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_PLACE", raising=False)
    (line,) = faults(tmp_path, "store: a\nsource: {folder: $NO_SUCH_PLACE/x}\n")
    assert line.startswith("a.yaml:2: source.folder:") and "NO_SUCH_PLACE" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory:\n  bugdet: 1GiB\n", "a.yaml:4: unknown key 'bugdet' in memory (did you mean 'budget'?)"),
        ("devise: cpu\n", "a.yaml:3: unknown key 'devise' (did you mean 'device'?)"),
        ("device: gpux\n", "a.yaml:3: device: 'gpux' is not one of auto, cpu, gpu (did you mean 'gpu'?)"),
        ("search: {k: '10'}\n", "a.yaml:3: search.k: '10': input should be a valid integer"),
        ("search: {k: 0}\n", "a.yaml:3: search.k: 0: input should be greater than or equal to 1"),
        ("search: {rerank: 'yes'}\n", "a.yaml:3: search.rerank: 'yes': input should be a valid boolean"),
        (
            "index: 5\n",
            "a.yaml:3: index: 5 stands where a section with keys should: "
            "kind, trees, search_k, clusters, probes, seed, rebuild_fraction",
        ),
        (
            "backbone:\n  outputs:\n    - {layer: fc2}\n    - {layer: fc1, poling: avg}\n",
            "a.yaml:6: unknown key 'poling' in backbone.outputs.1 (did you mean 'pooling'?)",
        ),
        ("memory: {budget: lots}\n", "a.yaml:3: memory.budget: 'lots' is not a size; write it like 512MiB or 1GiB"),
        ("run: {threads: 2, threads: 3}\n", "a.yaml:3: key 'threads' stands twice"),
        (
            "device: {{ device }}\n",
            "a.yaml:3: a key is plain text here; put quotes around a value that begins with a brace",
        ),
        *(
            (
                f"index: {{{kind}{name}: 3}}\n",
                f"a.yaml:3: index: {name} belongs to kind: {owner}; set that, or leave {name} out",
            )
            for name, owner, kind in (
                ("clusters", "ivf", ""),
                ("probes", "ivf", "kind: annoy, "),
                ("clusters", "ivf", "kind: exact, "),
                ("trees", "annoy", "kind: ivf, "),
                ("search_k", "annoy", "kind: exact, "),
            )
        ),
        (
            "index: {kind: ivf, clusters: 0}\n",
            "a.yaml:3: index.clusters: 0: input should be greater than or equal to 1",
        ),
        (
            "index: {kind: annoy, search_k: 2147483648}\n",
            "a.yaml:3: index.search_k: 2147483648: input should be less than 2147483648",
        ),
        ("search: {metric: l1}\n", "a.yaml:3: search.metric: 'l1' is not one of cosine, l2 (did you mean 'l2'?)"),
        ("search: [\n", "a.yaml:4: expected the node content, but found '<stream end>'"),
    ],
)
def test_a_fault_is_named_with_its_line_and_what_would_be_right(tmp_path: Path, text: str, expected: str) -> None:
    assert faults(tmp_path, MINIMAL + text) == [expected]


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    lines = faults(tmp_path, "sorce: {folder: photos}\nmemory: {budget: -1}\n")
    assert {line.split(":")[1] for line in lines if line.startswith("a.yaml:")} >= {"1", "2"}
    assert any("'store' is missing" in line for line in lines)
    assert any("did you mean 'source'?" in line for line in lines)


def test_overrides_beat_the_file_and_are_named_when_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, MINIMAL + "memory: {budget: 1GiB}\n")
    config = load_config(path, ["memory.budget=512MiB", "store=other.store", "source.exclude=['**/raw/**']"])
    assert (config.memory.budget, config.store) == (512 * 2**20, tmp_path / "other.store")
    assert config.source.exclude == ("**/raw/**",)
    assert faults(tmp_path, MINIMAL, "memory.bugdet=1") == [
        "--set memory.bugdet=1: unknown key 'bugdet' in memory (did you mean 'budget'?)"
    ]
    assert faults(tmp_path, MINIMAL, "memory") == [
        "--set memory: write it as KEY=VALUE, for example memory.budget=512MiB"
    ]


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert faults(tmp_path, text)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: the config cannot be read"):
        load_config(tmp_path / "nowhere.yaml")


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    assert "could not determine a constructor" in faults(tmp_path, "store: !!python/object/apply:os.getcwd []\n")[0]


def test_a_config_cannot_be_changed(tmp_path: Path) -> None:
    config: Config = load_config(write(tmp_path, MINIMAL))
    with pytest.raises(Exception, match="frozen"):
        config.search.k = 3


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MiB", 2**29), ("1GiB", 2**30), ("1.5 GB", 1_500_000_000), ("10kb", 10_000), (4096, 4096), ("7", 7)],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1MiB", "0", "1 parsec", True, None, [1], "nan"])
def test_sizes_that_are_none(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


def test_sizes_are_written_for_people() -> None:
    assert [format_bytes(size) for size in (10, 2**20, 1536 * 2**10, 700 * 2**20)] == [
        "10 B",
        "1 MiB",
        "1.5 MiB",
        "700 MiB",
    ]


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml")), ids=lambda p: p.name)
def test_every_config_that_is_shipped_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTOS", "/photos")
    load_config(path)


def test_the_reference_in_the_readme_is_complete_and_states_the_defaults(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    reference = text.partition("## Config reference")[2].partition("```yaml\n")[2].partition("```")[0]
    minimal = "store: ./photos.store\nsource: {folder: ./photos}\n"
    assert load_config(write(tmp_path, reference)) == load_config(write(tmp_path, minimal))

    def keys(section: dict[str, Any]) -> set[str]:
        inner = {f"{name}.{key}" for name, value in section.items() if isinstance(value, dict) for key in keys(value)}
        return set(section) | inner

    assert keys(yaml.safe_load(reference)) == keys(load_config(write(tmp_path, minimal)).model_dump())


@pytest.mark.parametrize(
    "index",
    [
        "{trees: 3, search_k: 100}",  # where annoy is the default
        "{kind: annoy, trees: auto, search_k: 5}",
        "{kind: ivf, clusters: 20, probes: 4}",
        "{kind: ivf, clusters: auto, probes: auto, trees: auto}",
        "{kind: exact}",
    ],
)
def test_each_kind_of_index_takes_its_own_keys(tmp_path: Path, index: str) -> None:
    config = load_config(write(tmp_path, f"{MINIMAL}index: {index}\n"))
    given = {name: None if value == "auto" else value for name, value in yaml.safe_load(index).items()}
    assert config.index.model_dump(include=set(given)) == given


@pytest.mark.parametrize("kind", ["", "kind: annoy", "kind: ivf"])
def test_distances_ask_for_a_look_at_every_image(tmp_path: Path, kind: str) -> None:
    """An index knows angles only: its candidates for the nearest would be the wrong ones."""
    text = "search.metric: l2 looks at every image, an index knows angles only: set index.kind: exact"
    assert faults(tmp_path, f"{MINIMAL}index: {{{kind}}}\nsearch: {{metric: l2}}\n") == [f"a.yaml:4: {text}"]
    overrides = (f"index.kind={kind[6:] or 'annoy'}", "search.metric=l2")
    assert faults(tmp_path, MINIMAL, *overrides) == [f"--set search.metric=l2: {text}"]
    config = load_config(write(tmp_path, f"{MINIMAL}index: {{kind: exact}}\nsearch: {{metric: l2}}\n"))
    assert config.search.metric == "l2"
