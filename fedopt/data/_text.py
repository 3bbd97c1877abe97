"""Text for next-character prediction: vocabulary, windows, and a test share at the end of every document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedopt.data.base import Examples


class Document(NamedTuple):
    """A piece of text and its natural owner (author, book, chapter ...)."""

    owner: str
    text: str


def vocabulary(documents: Sequence[Document]) -> str:
    """All distinct characters in code point order: character c is token ``vocabulary.index(c)``."""
    return "".join(sorted(set().union(*(set(document.text) for document in documents))))


def windows(
    documents: Sequence[Document], characters: str, sequence: int, test_fraction: float
) -> tuple[Examples, Examples]:
    """Cut documents into windows that do not overlap: inputs are characters t..t+L-1, targets t+1..t+L.

    The last ``test_fraction`` of every document's windows is the test set, so no test text was trained on.

    Args:
        documents: texts; those shorter than ``sequence + 1`` are skipped.
        characters: the vocabulary.
        sequence: window length L, characters.
        test_fraction: in [0, 1).
    Returns:
        (train, test) with int64 tokens ``[n, sequence]`` and the owner of every window as group.
    Raises:
        ValueError: one side is empty.
    """
    code_points = np.array([ord(character) for character in characters], dtype=np.uint32)
    pieces: dict[bool, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {False: [], True: []}
    for document in documents:
        written = np.frombuffer(document.text.encode("utf-32-le"), dtype="<u4")
        tokens = np.searchsorted(code_points, written).astype(np.int64)
        count = (len(tokens) - 1) // sequence
        inputs = tokens[: count * sequence].reshape(count, sequence)
        targets = tokens[1 : count * sequence + 1].reshape(count, sequence)
        owners = np.full(count, document.owner)
        cut = count - round(count * test_fraction)
        pieces[False].append((inputs[:cut], targets[:cut], owners[:cut]))
        pieces[True].append((inputs[cut:], targets[cut:], owners[cut:]))
    train, test = (_examples(pieces[side], sequence) for side in (False, True))
    if len(train) == 0 or len(test) == 0:
        raise ValueError(
            f"{len(documents)} document(s) give {len(train)} training and {len(test)} test windows of {sequence} "
            "characters: use a shorter sequence, a test_fraction nearer to 0.2, or more text"
        )
    return train, test


def _examples(pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]], sequence: int) -> Examples:
    if not pieces:
        empty = np.zeros((0, sequence), dtype=np.int64)
        return Examples(empty, empty, np.zeros(0, dtype=str))
    inputs, targets, owners = zip(*pieces, strict=True)
    return Examples(np.concatenate(inputs), np.concatenate(targets), np.concatenate(owners))
