"""An answer that comes word by word: a language model, as small as they come.

It knows which word follows which, and how often, on the first page of a book. The next word is drawn from
those that followed the last one there.
"""

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import modelserver
from modelserver import InvalidInput

PAUSE_S = 0.05  # what a large network would take for a word
MOST_WORDS = 1000


class Storyteller(modelserver.Model):
    """Tells a story that begins with a given word."""

    def load(self) -> bool:
        text = Path(__file__).with_name("alice.txt").read_text(encoding="utf-8")  # Lewis Carroll, 1865
        tokens = re.findall(r"[\w-]+|[.,;:?!]", text)
        self.words = sorted(set(tokens))
        self.numbers = {word: number for number, word in enumerate(self.words)}
        counts = np.zeros((len(self.words), len(self.words)))
        for one, following in zip(tokens, [*tokens[1:], "."], strict=True):
            counts[self.numbers[one], self.numbers[following]] += 1
        self.chances = np.cumsum(counts / counts.sum(axis=1, keepdims=True), axis=1)
        self.ready = True
        return True

    def predict(self, payload: Any) -> Any:
        """Return the story in whole, or, where the request says `"stream": true`, a generator of its words.

        `def`: every step of the generator runs on the model's own thread, as this method does. A client that
        reads slowly is not written for ahead of time.
        """
        start, count = payload.get("start", "Alice"), payload.get("words", 20)
        if start not in self.words:
            raise InvalidInput(f'"start" is no word of the book: {start!r}')
        if not isinstance(count, int) or not 1 <= count <= MOST_WORDS:
            raise InvalidInput(f'"words" is {count!r}, expected 1 to {MOST_WORDS}')
        story = self.story(start, count, payload.get("seed", 0))
        return story if payload.get("stream") else {"predictions": ["".join(story)]}

    def story(self, word: str, count: int, seed: int) -> Iterator[str]:
        chance = random.Random(seed)
        told = 0
        try:
            for _ in range(count):
                yield word if not told or not word[0].isalnum() else f" {word}"
                told += 1
                time.sleep(PAUSE_S)
                row = self.chances[self.numbers[word]]
                word = self.words[int(np.searchsorted(row, chance.random() * row[-1], side="right"))]
        finally:  # also when the client leaves
            print(f"{told} of {count} words told", flush=True)


if __name__ == "__main__":
    modelserver.ModelServer().start([Storyteller("storyteller")])
