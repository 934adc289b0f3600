"""Assembles report.html: one template, one stylesheet, one script, and a policy that lets nothing else run.

The policy knows both by their hashes, so whatever gets into the page otherwise stays text. The only thing said in the
page itself is the run's name; its data come as scripts that the page's own one loads. A live page has one script and
one sheet more, and may ask where it came from.
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
_LIVE_SCRIPT = "now.js"


def build_page(*, title: str, folder: str, thumbnails: str, is_live: bool = False) -> str:
    """Return the page; `folder` and `thumbnails` are where its data lie, relative to it.

    A live one follows a run at work, and has a server to ask.
    """
    sheets = ["page.css", *(["now.css"] if is_live else [])]
    style = "\n" + "".join((_FOLDER / name).read_text(encoding="utf-8") for name in sheets)
    scripts = [*_SCRIPTS[:-1], *([_LIVE_SCRIPT] if is_live else []), _SCRIPTS[-1]]
    parts = [(_FOLDER / name).read_text(encoding="utf-8") for name in scripts]
    script = '\n"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    # `file:` since a page from the disk has an origin of its own, of which 'self' means nothing.
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src 'self' data:" + ("" if is_live else " file:"),
            *(["connect-src 'self'"] if is_live else []),
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
        "live": str(is_live).lower(),
        "style": style,
        "script": script,
    }
    # Piece by piece, so that what one value holds is never taken for the place of another.
    pieces = (_FOLDER / "page.html").read_text(encoding="utf-8").split("%%")
    return "".join(said[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()
