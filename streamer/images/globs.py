"""Glob patterns over keys, with ``**``; the standard library has them only from Python 3.13 on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

__all__ = ["KeyMatcher", "glob_to_regex"]


def glob_to_regex(pattern: str) -> str:
    """Translate a glob over POSIX paths to a regular expression to be matched against a whole key.

    Parameters
    ----------
    pattern : str
        ``*`` and ``?`` stay within one name, ``[abc]`` and ``[!abc]`` stand for one character, ``**`` as a whole
        name stands for any number of folders, none included. Case matters on every platform.

    Returns
    -------
    str
    """
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    regex = ""
    for place, name in enumerate(names):
        last = place == len(names) - 1
        if name == "**":
            regex += ".*" if last else "(?:[^/]*/)*"
        else:
            regex += _name_to_regex(name) + ("" if last else "/")
    return regex


def _name_to_regex(name: str) -> str:
    regex = ""
    at = 0
    while at < len(name):
        character = name[at]
        at += 1
        # A "]" right after the bracket (or after its "!") is a member of the class, as in the shell.
        end = name.find("]", at + 1 + name.startswith("!", at)) if character == "[" else -1
        if character == "*":
            # One "[^/]*" for a run of stars: several in a row backtrack exponentially.
            regex += "" if regex.endswith("[^/]*") else "[^/]*"
        elif character == "?":
            regex += "[^/]"
        elif end != -1:
            members = name[at:end]
            negated = members.startswith("!")
            escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", members[negated:])
            regex += f"(?!/)[{'^' if negated else ''}{escaped}]"
            at = end + 1
        else:
            regex += re.escape(character)
    return regex


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(glob_to_regex(unicodedata.normalize("NFC", pattern)), re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a valid glob: {error}") from error


class KeyMatcher:
    """Says which keys, and which whole folders, a list of globs takes out.

    Parameters
    ----------
    patterns : sequence of str
        See `glob_to_regex`. A pattern that matches a folder matches all below it.

    Raises
    ------
    ValueError
        When a character class of a pattern is no valid one (``[z-a]``).
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._regexes = [_compiled(pattern) for pattern in patterns]

    def file(self, key: str) -> bool:
        """Whether the file with this key is taken out."""
        return any(regex.fullmatch(key) for regex in self._regexes)

    def folder(self, key: str) -> bool:
        """Whether the folder with this key (without a slash at its end) is taken out with all below it."""
        # "a/**" names what is below "a": only with the slash does it match the folder itself.
        return self.file(key) or self.file(key + "/")
