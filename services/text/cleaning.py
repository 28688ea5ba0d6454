"""A prompt as Wan's encoder was trained to read it."""

from __future__ import annotations

import html

import ftfy


def clean(prompt: str) -> str:
    """Broken UTF-8 mended, HTML entities (also doubly written ones) as what they stand for, and one space
    wherever there was any white space.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())
