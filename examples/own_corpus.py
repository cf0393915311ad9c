"""A corpus of your own: compositions of words as a prompt library, some of them kept from training, and the sentences of a few steps.

python examples/own_corpus.py [--out logs/own_corpus.json]

`system.prompt_processor.library=logs/own_corpus.json` of `launch.py` trains on it.
"""

import argparse
import itertools
import json

from microdreamer.core.files import atomic_write
from microdreamer.generators.library import load_library, sentences_of_step
from microdreamer.guidance import load_sentence_encoder

COLOURS = ("red", "blue", "green", "yellow", "wooden")
THINGS = ("chair", "table", "bed", "boat", "crate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="logs/own_corpus.json")
    options = parser.parse_args()

    # Of five diagonals of the table of colours and things three are trained, so every word is known and each fifth pair is new.
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for (row, colour), (column, thing) in itertools.product(enumerate(COLOURS), enumerate(THINGS)):
        lists[("train", "train", "train", "val", "test")[(row + column) % 5]].append(f"a {colour} {thing}")
    with atomic_write(options.out) as temporary:
        temporary.write_text(json.dumps(lists, indent=4), encoding="utf-8")

    library = load_library(options.out)
    states = load_sentence_encoder("micro").encode(library.train)  # an error for a sentence of words that the prior does not know
    print(f"{library}; embeddings of {states.pooled.shape[1]} values")
    for step in range(3):
        print(f"step {step}:", ", ".join(library.train[index] for index in sentences_of_step(len(library.train), 4, step, seed=0)))


if __name__ == "__main__":
    main()
