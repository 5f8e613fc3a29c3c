"""The files of the page hold together, and ask for nothing that the Content-Security-Policy forbids."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import streamer

PAGE = Path(streamer.__file__).parent / "serving" / "page"
MODULES = sorted(path.name for path in PAGE.glob("*.js") if path.name != "theme.js")
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.]+)";', re.MULTILINE)
EXPORT = re.compile(r"^export (?:async )?(?:function|const|class) (\w+)", re.MULTILINE)


class _Page(HTMLParser):
    """Every tag of index.html, with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed((PAGE / "index.html").read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(attribute)) is not None]


def text_of(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def static_imports(name: str) -> set[str]:
    """The modules that come with a module, itself among them."""
    found = {name}
    for _, other in IMPORT.findall(text_of(name)):
        found |= static_imports(other)
    return found


def test_the_page_has_nothing_inline_and_loads_only_its_own_files() -> None:
    page = _Page()
    for tag, attributes in page.tags:
        assert tag != "style" and "style" not in attributes, (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert tag != "script" or attributes.get("src"), "an inline script would not run"
    loaded = [value for name in ("src", "href") for value in page.values(name) if not value.startswith("#")]
    assert loaded
    for address in loaded:
        assert address.startswith("/static/") and (PAGE / address.removeprefix("/static/")).is_file(), address


@pytest.mark.parametrize("name", sorted(path.name for path in PAGE.iterdir()))
def test_no_file_names_another_host_or_takes_markup_or_code_from_text(name: str) -> None:
    text = text_of(name).replace("http://www.w3.org/2000/svg", "")
    for forbidden in (
        "http://",
        "https://",
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "eval(",
        "Function(",
        "@import",
    ):
        assert forbidden not in text, f"{name} has {forbidden}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_the_others_export_and_uses_it(name: str) -> None:
    text = text_of(name)
    for names, other in IMPORT.findall(text):
        for each in re.findall(r"\w+", names):
            assert each in EXPORT.findall(text_of(other)), f"{name}: {other} exports no {each}"
            assert len(re.findall(rf"\b{each}\b", text)) > 1, f"{name} imports {each} for nothing"


def test_what_a_module_exports_is_imported_somewhere() -> None:
    imported = {
        (other, each)
        for name in MODULES
        for names, other in IMPORT.findall(text_of(name))
        for each in re.findall(r"\w+", names)
    }
    exported = {(name, each) for name in MODULES for each in EXPORT.findall(text_of(name))}
    by_name = {("map.js", "prepare"), ("duplicates.js", "prepare")}  # app.js imports them when they are opened
    assert exported - imported == by_name


def test_the_first_view_is_fetched_at_once_and_the_others_later() -> None:
    hinted = {
        value.removeprefix("/static/")
        for tag, each in _Page().tags
        if each.get("rel") == "modulepreload" and (value := each["href"])
    }
    assert hinted | {"app.js"} == static_imports("app.js")
    assert not {"map.js", "duplicates.js"} & hinted


def test_what_the_modules_look_for_is_in_the_page() -> None:
    made = {
        each
        for name in MODULES
        for each in re.findall(r'\bid: "([\w-]+)"|button\("([\w-]+)"', text_of(name))
        for each in each
    }
    there = set(_Page().values("id")) | made
    for name in MODULES:
        for wanted in re.findall(r'byId\("([\w-]+)"\)', text_of(name)):
            assert wanted in there, f"{name} looks for #{wanted}"
    symbols = {identity for identity in there if identity.startswith("icon-")}
    used = {f"icon-{each}" for name in MODULES for each in re.findall(r'\bicon\("(\w+)"\)', text_of(name))}
    assert used <= symbols
    labels = set(_Page().values("for")) | set(_Page().values("aria-labelledby"))
    assert labels <= there, labels - there
