"""Words that the micro prior was not taught, read as the nearest that it was: colours by their colour, others by word vectors.

The vectors ship in weights/words (see the README there): 100 numbers of 4 bits a word, so that a likeness is off by about 0.01.
"""

from __future__ import annotations

import functools
import zipfile
import zlib
from collections.abc import Collection

import numpy as np
from PIL import ImageColor

from microdreamer.core.paths import shipped_folder

FILE = shipped_folder("weights") / "words" / "words.npz"
NEAR = 0.5  # least cosine of two words of which one may stand for the other
STEP = 0.335  # of the quantisation, in standard deviations: the best for 16 even steps of a normal distribution (Max 1960)

# Names of colours that CSS does not have, or has for another colour.
COLOURS = {
    "azure": "#007fff",
    "scarlet": "#ff2400",
    "vermilion": "#e34234",
    "burgundy": "#800020",
    "ruby": "#e0115f",
    "magenta": "#ff00ff",
    "emerald": "#50c878",
    "jade": "#00a86b",
    "sapphire": "#0f52ba",
    "cobalt": "#0047ab",
    "cerulean": "#007ba7",
    "ultramarine": "#120a8f",
    "lilac": "#c8a2c8",
    "mauve": "#b784a7",
    "amber": "#ffbf00",
    "ochre": "#cc7722",
    "mustard": "#e1ad01",
    "sepia": "#704214",
    "charcoal": "#36454f",
}
# What one word of a colour may be read as; shades of the other names ("salmon", "chocolate") are things as well.
BASIC = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey", "gray", "turquoise", "beige")


def quantise(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors [N,D] as bytes [N,D/2] of two numbers of 4 bits, the first one in the low bits."""
    steps = np.clip(np.floor(vectors * (vectors.shape[1] ** 0.5 / STEP)) + 8, 0, 15).astype(np.uint8)
    return steps[:, ::2] | steps[:, 1::2] << 4


def dequantise(stored: np.ndarray) -> np.ndarray:
    """Unit vectors [N,D] float32 of what `quantise` made."""
    steps = np.stack([stored & 15, stored >> 4], axis=-1).reshape(len(stored), -1)
    vectors = steps.astype(np.float32) - 7.5
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def oklab(name: str) -> np.ndarray:
    """A colour's place [3] in Oklab (Ottosson 2020), where distances are about those that people see."""
    srgb = np.array(ImageColor.getrgb(COLOURS.get(name, name))) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(lab) @ np.cbrt(np.array(cones) @ linear)


class WordVectors:
    """Which of some known words is nearest to another one."""

    def __init__(self, words: list[str], vectors: np.ndarray):
        """vectors [N,D]: of unit length."""
        self.vectors = vectors
        self.place = {word: index for index, word in enumerate(words)}

    @classmethod
    @functools.cache
    def shipped(cls) -> WordVectors:
        """Those of weights/words. Raises FileNotFoundError where they are missing, ValueError where they are damaged."""
        try:
            with np.load(FILE) as stored:
                return cls(stored["words"].tobytes().decode("ascii").split(), dequantise(stored["vectors"]))
        except FileNotFoundError:
            raise FileNotFoundError(f"{FILE}: missing; restore it: the micro prior reads words by it that it was not taught") from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{FILE}: damaged, restore it ({error})") from error

    def nearest(self, word: str, known: Collection[str]) -> str | None:
        """The known word that may stand for `word`: the nearest, or None where none is near."""
        if word in COLOURS or word in ImageColor.colormap:
            basic = [name for name in BASIC if name in known]
            if basic:  # lightness counts half: a name tells of hue first ("emerald" is green, not grey)
                return min(basic, key=lambda name: float(np.linalg.norm((oklab(name) - oklab(word)) * (0.5, 1, 1))))
        if word not in self.place:
            return None
        names = [name for name in known if name in self.place]
        likeness = self.vectors[[self.place[name] for name in names]] @ self.vectors[self.place[word]]
        best = int(likeness.argmax()) if names else 0
        return names[best] if names and likeness[best] >= NEAR else None
