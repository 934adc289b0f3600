"""Draws the sandbox's images: a landscape for each seed that guidance reshapes smoothly, with the cell written on it.

Pure but for Pillow and numpy: the same picture gives the same bytes (with the same versions of both). It decides how
an image looks and never what is in a prediction; it must not fail on any text.
"""

import colorsys
import hashlib
import io
import math
import random
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from batchflux.sandbox.lettering import Lettering
from batchflux.sandbox.vendor import parse_ratio

__all__ = ["Painter", "Picture"]

_Plane = npt.NDArray[np.floating]
_Colour = tuple[float, float, float]

_MAX_GUIDANCE = 20.0
_RIDGES = 6

# Sky at the top, sky at the horizon, nearest ridge.
_PALETTES = (
    (0x2B4C7E, 0xF7C59F, 0x1B1F3B),
    (0x3B1C57, 0xFF8C61, 0x1A0B2E),
    (0x0F4C5C, 0xE9D8A6, 0x06262E),
    (0x4A2C6A, 0xF2A1B8, 0x22102F),
    (0x34699A, 0xD9F0F4, 0x0D2438),
    (0x6B1D1D, 0xFFB84D, 0x200A0A),
    (0x2F5D50, 0xF1E3B0, 0x0E1F18),
    (0x0B1437, 0x6F9CEB, 0x050818),
    (0x5D5FA5, 0xFBD3E0, 0x1C1B3A),
    (0x3F88A5, 0xF6B26B, 0x3A1410),
    (0x1F6F78, 0xC7F0DB, 0x0B2B2E),
    (0x5B3A5E, 0xF4A259, 0x241126),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What one image is drawn from; `ordinal` counts a prediction's images from 1, of `images`."""

    prompt: str
    seed: int
    guidance: float
    aspect_ratio: str
    ordinal: int = 1
    images: int = 1


class Painter:
    """Draws images with a long side of `long_side_px`, as "png" or "jpeg". One thread at a time."""

    def __init__(self, *, long_side_px: int, image_format: str) -> None:
        self._long_side_px = long_side_px
        self._is_png = image_format == "png"
        self._lettering = Lettering(em_px=max(9, round(long_side_px / 24)))

    def draw(self, picture: Picture) -> bytes:
        """Return the encoded image."""
        width, height = size_of(picture.aspect_ratio, long_side_px=self._long_side_px)
        scene = _Scene(picture, width=width, height=height)
        image = Image.fromarray(scene.paint())
        self._lettering.write(
            image,
            title=picture.prompt,
            details=_details(picture),
            accent=scene.accent,
        )
        encoded = io.BytesIO()
        if self._is_png:
            # Run lengths alone: on these pictures quicker than any level of zlib's matching, and as small as level 2.
            image.save(encoded, "PNG", compress_type=zlib.Z_RLE)
        else:
            image.save(encoded, "JPEG", quality=88)
        return encoded.getvalue()


def size_of(aspect_ratio: str, *, long_side_px: int) -> tuple[int, int]:
    """Return width and height in pixels; a ratio that can't be read is drawn square."""
    ratio = parse_ratio(aspect_ratio) or 1.0
    if ratio >= 1:
        return long_side_px, max(1, round(long_side_px / ratio))
    return max(1, round(long_side_px * ratio)), long_side_px


def _details(picture: Picture) -> list[str]:
    parts = [f"seed {picture.seed}", f"guidance {picture.guidance:g}", picture.aspect_ratio]
    if picture.images > 1:
        parts.append(f"{picture.ordinal} of {picture.images}")
    return parts


class _Scene:
    """A sun over misty ridges. Seed, prompt and ordinal throw the dice; guidance only ever moves what they chose."""

    def __init__(self, picture: Picture, *, width: int, height: int) -> None:
        entropy = f"{picture.seed}\n{picture.ordinal}\n".encode() + picture.prompt.encode("utf-8", "surrogatepass")
        dice = random.Random(hashlib.blake2b(entropy, digest_size=16).digest())
        self._width, self._height = width, height
        self._dice = dice
        # 0 at guidance 1, about 1 at 10: low is hazy and flat, high is crisp, steep and saturated.
        self._strength = (min(max(picture.guidance, 1.0), _MAX_GUIDANCE) - 1.0) / 9.0
        zenith, horizon, near = dice.choice(_PALETTES)
        turn = dice.uniform(-0.035, 0.035)
        vivid = 0.55 + 0.6 * min(self._strength, 1.2)
        self._zenith, self._horizon, self._near = (
            _tint(colour, turn=turn, vivid=vivid) for colour in (zenith, horizon, near)
        )
        self._far = _mix(self._horizon, self._zenith, 0.38)
        self._sun = _mix(self._horizon, (1.0, 1.0, 0.96), 0.72)
        self.accent = tuple(round(255 * c) for c in _mix(self._horizon, (1.0, 1.0, 1.0), 0.35))

    def paint(self) -> npt.NDArray[np.uint8]:
        """Return the pixels, height × width × 3."""
        pixels = self._paint_sky()
        self._paint_ridges(pixels)
        return pixels

    def _paint_sky(self) -> npt.NDArray[np.uint8]:
        # Everything in the sky is smooth, so a quarter of the pixels is enough and the disc comes after.
        dice, strength = self._dice, self._strength
        height, width = max(2, self._height // 2), max(2, self._width // 2)
        unit = max(height, width)
        y = (np.arange(height, dtype=np.float32) / unit)[:, None]
        x = (np.arange(width, dtype=np.float32) / unit)[None, :]
        top = height / unit
        rise = np.clip(y / (0.72 * top), 0, 1) ** np.float32(1.3)
        sun_x = dice.uniform(0.18, 0.82) * width / unit
        sun_y = top * (dice.uniform(0.20, 0.42) + 0.10 * (0.5 - strength))
        radius = 0.05 + 0.05 * dice.random()
        distance = np.sqrt((x - np.float32(sun_x)) ** 2 + (y - np.float32(sun_y)) ** 2)
        glow = np.exp(-distance * np.float32(4.5)) * np.float32(0.75)
        veil = self._veil(x, y)
        disc = np.clip((np.float32(radius) - distance) * np.float32(unit) + np.float32(0.5), 0, 1)
        layers = np.empty((height, width, 3), dtype=np.uint8)
        for channel in range(3):
            zenith, horizon, sun = self._zenith[channel], self._horizon[channel], self._sun[channel]
            plane = zenith + rise * np.float32(horizon - zenith)
            plane = plane + veil * np.float32(horizon * 0.55 + 0.2)
            plane += glow * (np.float32(sun) - plane)
            plane += disc * (np.float32(sun) - plane)
            layers[:, :, channel] = np.clip(plane * np.float32(255), 0, 255)
        sky = Image.fromarray(layers).resize((self._width, self._height), Image.Resampling.BILINEAR)
        return np.array(sky)

    def _veil(self, x: _Plane, y: _Plane) -> _Plane:
        """Return bands of thin cloud, folded the more the higher the guidance."""
        dice = self._dice
        tilt, phase, other = dice.uniform(-2.5, 2.5), dice.uniform(0, math.tau), dice.uniform(0, math.tau)
        fold = 0.5 + 1.3 * self._strength
        warp = np.sin(x * np.float32(dice.uniform(5, 9)) + np.float32(phase)) * np.float32(fold)
        bands = np.sin(y * np.float32(dice.uniform(16, 26)) + x * np.float32(tilt) + warp + np.float32(other))
        return np.asarray(np.maximum(bands, 0) ** 2 * np.float32(0.10 + 0.12 * dice.random()))

    def _paint_ridges(self, pixels: npt.NDArray[np.uint8]) -> None:
        height, width = self._height, self._width
        base = self._dice.uniform(0.40, 0.50)
        shades = np.zeros((_RIDGES + 1, height, 4), dtype=np.uint8)
        # Which shade each pixel shows: one number a pixel is looked up once, however many ridges lie over it.
        shown = np.zeros((height, width), dtype=np.int32)
        down = np.arange(height, dtype=np.int32)[:, None]
        crests = []
        for layer in range(1, _RIDGES + 1):
            nearness = (layer - 1) / (_RIDGES - 1)
            crest = self._crest(nearness, base=base + (0.92 - base) * nearness**1.15)
            rows = np.floor(crest).astype(np.int32)
            shades[layer, :, :3] = self._shades(nearness)
            top = min(max(0, int(rows.min())), height)
            below = down[top:] - rows[None, :]
            np.copyto(shown[top:], below + np.int32(layer * height), where=below > 0)
            crests.append((layer, crest, rows))
        looked_up = shades.reshape(-1, 4).view(np.uint32)[:, 0].take(np.minimum(shown, shades.size // 4 - 1))
        land = looked_up.view(np.uint8).reshape(height, width, 4)[:, :, :3]
        np.copyto(pixels, land, where=(shown > 0)[:, :, None])
        for layer, crest, rows in crests:
            self._smooth_edge(pixels, shown, layer=layer, crest=crest, rows=rows, shade=shades[layer, 0, :3])

    def _shades(self, nearness: float) -> npt.NDArray[np.uint8]:
        """Return one ridge's colour at each depth below its crest: mist gathers in the valleys."""
        body = np.array(_mix(self._far, self._near, nearness**0.8))
        mist = body + (np.array(self._horizon) - body) * (0.62 - 0.30 * min(self._strength, 1.4))
        depth = np.arange(self._height)[:, None] / (0.30 * self._height)
        haze = np.clip(depth, 0, 1) * (1 - nearness)
        return np.asarray((body + (mist - body) * haze) * 255).astype(np.uint8)

    def _smooth_edge(
        self,
        pixels: npt.NDArray[np.uint8],
        shown: npt.NDArray[np.int32],
        *,
        layer: int,
        crest: npt.NDArray[np.float64],
        rows: npt.NDArray[np.int32],
        shade: npt.NDArray[np.uint8],
    ) -> None:
        """Blend the crest's own pixels by how much of each the ridge takes, where no nearer ridge hides them."""
        columns = np.flatnonzero((rows >= 0) & (rows < self._height))
        columns = columns[shown[rows[columns], columns] <= layer * self._height]
        at = rows[columns]
        share = (at + 1 - crest[columns])[:, None]
        edge = pixels[at, columns]
        pixels[at, columns] = edge + (shade - edge.astype(np.float64)) * share

    def _crest(self, nearness: float, *, base: float) -> npt.NDArray[np.float64]:
        """Return the height of a ridge's crest in each column, in rows from the top."""
        dice = self._dice
        x = np.arange(self._width) / max(self._width, self._height)
        crest = np.zeros(self._width)
        for octave in range(5):
            pitch = dice.uniform(1.6, 2.6) * 2.0**octave * (0.8 + 0.5 * nearness)
            wave = np.sin(math.tau * pitch * x + dice.uniform(0, math.tau))
            # Folding a wave at its middle makes a peak of it: guidance goes from rolling hills to sharp ones.
            peak = 1 - 2 * np.abs(wave)
            crest += (wave + (peak - wave) * min(self._strength, 1.2) * 0.8) * 0.5**octave
        reach = (0.045 + 0.055 * self._strength) * (1.1 - 0.4 * nearness)
        return np.asarray((base - reach * crest) * self._height)


def _tint(colour: int, *, turn: float, vivid: float) -> _Colour:
    red, green, blue = (channel / 255 for channel in colour.to_bytes(3, "big"))
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    return colorsys.hsv_to_rgb((hue + turn) % 1.0, min(saturation * vivid, 1.0), value)


def _mix(one: _Colour, other: _Colour, share: float) -> _Colour:
    red, green, blue = (a + (b - a) * share for a, b in zip(one, other, strict=True))
    return red, green, blue
