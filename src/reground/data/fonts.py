"""A font that has the letters of a text: Pillow's own, else matplotlib's, else the system's."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from reground.errors import ConfigError

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
SIZE = 14
_OWN = frozenset(range(0x20, 0x7F))  # of Pillow's own font, which has no letter with an accent
_LOG = logging.getLogger(__name__)


def font_for(text: str, chosen: Path | None = None) -> Font | None:
    """What ``text`` is drawn with: the file ``chosen``, else the first font that has its letters.

    None where no font has them. Raises ``ConfigError`` for a file that is no font.
    """
    if chosen is not None:
        try:
            return ImageFont.truetype(str(chosen), SIZE)
        except OSError:
            raise ConfigError(
                f"{chosen}: no font that can be read; expected a .ttf or .otf"
            ) from None
    letters = frozenset(letter for letter in text if not letter.isspace())
    if {*map(ord, letters)} <= _OWN:
        return ImageFont.load_default(SIZE)
    path = _installed_font(letters)
    return None if path is None else ImageFont.truetype(path, SIZE)


def drawable(text: str, chosen: Path | None = None) -> tuple[str, Font]:
    """A text and the font to draw it with; letters that no font here has become ``?``, and a word.

    Raises ``ConfigError`` as :func:`font_for` does.
    """
    font = font_for(text, chosen)
    if font is not None:
        return text, font
    _LOG.warning("no font here has the letters of %r; name one with --font", text[:60])
    wanted = {*map(ord, text)}
    path, known = max([(None, _OWN), *_installed_fonts()], key=lambda each: len(wanted & each[1]))
    shown = "".join(letter if ord(letter) in known else "?" for letter in text)
    return shown, ImageFont.load_default(SIZE) if path is None else ImageFont.truetype(path, SIZE)


@lru_cache(maxsize=256)
def _installed_font(letters: frozenset[str]) -> str | None:
    wanted = {*map(ord, letters)}
    return next((path for path, known in _installed_fonts() if wanted <= known), None)


@lru_cache(maxsize=1)
def _installed_fonts() -> list[tuple[str, frozenset[int]]]:
    """The font that matplotlib brings and those of this machine, and their letters.

    Sans serif comes first, and upright before bold.
    """
    from matplotlib import font_manager, ft2font, get_data_path

    brought = str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    found = []
    for path in (brought, *sorted(font_manager.findSystemFonts(), key=_rank)):
        try:
            found.append((path, frozenset(ft2font.FT2Font(path).get_charmap())))
        except (RuntimeError, OSError):  # bitmaps, and files that are cut
            continue
    return found


def _rank(path: str) -> tuple[bool, bool, str]:
    return "Sans" not in path, any(each in path for each in ("Bold", "Italic", "Oblique")), path
