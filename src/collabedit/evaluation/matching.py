"""Whether a text names something: whole words, in any script, and whole numbers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["count_words", "loops", "names", "names_any"]

#: Scripts written without spaces, by the first words of their characters' Unicode names: there,
#: neighbouring characters don't mark the end of a name. Two characters count as a word.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_CHARACTERS_A_WORD = 2

#: Affixes written together with a name in some scripts, before it and after it.
_ATTACHED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "HANGUL": (
        (),
        (
            *"은는이가을를의에와과도로만",
            *("에서", "에게", "으로", "까지", "부터", "이다", "입니다", "이에요", "예요", "이며"),
        ),
    ),
    "ARABIC": (("و", "ف", "ب", "ل", "ك", "ال", "وال", "بال", "لل", "فال", "كال"), ()),
    "HEBREW": (tuple("והבלכמש"), ()),
}
_LONGEST_ATTACHED = 3
_APOSTROPHES = str.maketrans("\N{RIGHT SINGLE QUOTATION MARK}\N{MODIFIER LETTER APOSTROPHE}", "''")
_DECIMAL_MARKS = ".,"
_LONGEST_LOOP, _TURNS = 8, 3


def names(text: str, name: str) -> bool:
    """Whether a text contains a name as a whole, case-insensitive.

    ``743`` is not in "7439", "1,743" or "743.5", nor "Пловдив" in "Пловдивски". In Chinese,
    Japanese, Thai and other scripts without spaces, a name may occur anywhere; in Korean, Arabic
    and Hebrew, particles may be attached to it.
    """
    text, name = _normal(text), _normal(name)
    if not name:
        return False
    start = text.find(name)
    while start >= 0:
        end = start + len(name)
        if _begins(text, start) and _ends(text, end):
            return True
        start = text.find(name, start + 1)
    return False


def names_any(text: str, candidates: Iterable[str]) -> bool:
    """Whether a text contains one of some names."""
    return any(names(text, candidate) for candidate in candidates)


def count_words(text: str) -> int:
    """Words of a text; two characters count as one in scripts without spaces."""
    words = 0
    for word in text.split():
        unspaced = sum(_script(char).startswith(_UNSPACED) for char in word)
        words += max(1, -(-unspaced // _CHARACTERS_A_WORD)) if _has_letters(word) else 0
    return words


def loops(tokens: Sequence[int]) -> bool:
    """Whether tokens end with the same sequence three times in a row."""
    for period in range(1, _LONGEST_LOOP + 1):
        tail = tokens[-_TURNS * period :]
        if len(tail) == _TURNS * period and all(
            a == b for a, b in zip(tail, tail[period:], strict=False)
        ):
            return True
    return False


def _normal(text: str) -> str:
    """Unify compatible characters, apostrophes, case and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).casefold().split())


def _begins(text: str, start: int) -> bool:
    if start == 0 or not _joined(text[start - 1], text[start]):
        return not (text[start].isdigit() and _digits_before(text, start))
    prefixes = _ATTACHED.get(_script(text[start]).partition(" ")[0], ((), ()))[0]
    before = text[max(0, start - _LONGEST_ATTACHED) : start]
    return any(before.endswith(p) and _free(text, start - len(p) - 1) for p in prefixes)


def _ends(text: str, end: int) -> bool:
    if end == len(text) or not _joined(text[end - 1], text[end]):
        return not (text[end - 1].isdigit() and _digits_after(text, end))
    suffixes = _ATTACHED.get(_script(text[end - 1]).partition(" ")[0], ((), ()))[1]
    return any(text.startswith(s, end) and _free(text, end + len(s)) for s in suffixes)


def _joined(left: str, right: str) -> bool:
    """Whether two adjacent characters belong to one word, as far as one can tell."""
    if left.isdigit() and right.isdigit():
        return True
    if any(_script(char).startswith(_UNSPACED) for char in (left, right)):
        return False
    return _in_word(left) and _in_word(right)


def _free(text: str, index: int) -> bool:
    return not 0 <= index < len(text) or not _in_word(text[index])


def _in_word(char: str) -> bool:
    """Letters, digits, and the marks that belong to them, such as vowel signs."""
    return unicodedata.category(char)[0] in "LMN"


def _digits_before(text: str, start: int) -> bool:
    return start > 1 and text[start - 1] in _DECIMAL_MARKS and text[start - 2].isdigit()


def _digits_after(text: str, end: int) -> bool:
    return end + 1 < len(text) and text[end] in _DECIMAL_MARKS and text[end + 1].isdigit()


def _has_letters(word: str) -> bool:
    return any(_in_word(char) for char in word)


def _script(char: str) -> str:
    return unicodedata.name(char, "")
