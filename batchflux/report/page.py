"""Assembles report.html: one template, one stylesheet, one script, and a policy that lets nothing else run.

The policy knows both by their hashes, so whatever gets into the page otherwise stays text. The only thing said in the
page itself is the run's name; its data come as scripts that the page's own one loads.
"""

from base64 import b64encode
from hashlib import sha256
from html import escape
from pathlib import Path

__all__ = ["build_page"]

_FOLDER = Path(__file__).parent / "page"

# In this order: each uses only what stands above it.
_SCRIPTS = (
    "dom.js",
    "data.js",
    "state.js",
    "virtual.js",
    "tile.js",
    "grid.js",
    "gallery.js",
    "lightbox.js",
    "charts.js",
    "sweep.js",
    "main.js",
)


def build_page(*, title: str, folder: str, thumbnails: str) -> str:
    """Return the page; `folder` and `thumbnails` are where its data lie, relative to it."""
    style = "\n" + (_FOLDER / "page.css").read_text(encoding="utf-8")
    parts = [(_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    script = '\n"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    # `file:` since a page from the disk has an origin of its own, of which 'self' means nothing.
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src 'self' data: file:",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}' 'strict-dynamic'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    said = {
        "policy": escape(policy, quote=True),
        "title": escape(title),
        "folder": escape(folder, quote=True),
        "thumbnails": escape(thumbnails, quote=True),
        "style": style,
        "script": script,
    }
    # Piece by piece, so that what one value holds is never taken for the place of another.
    pieces = (_FOLDER / "page.html").read_text(encoding="utf-8").split("%%")
    return "".join(said[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()
