"""Six novels of Jane Austen, for next-character prediction."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedopt.components import KindOf
from fedopt.data._assemble import SplitDataSet, assemble
from fedopt.data._fetch import data_folders, digest, fetch_debian, find
from fedopt.data._text import Document, vocabulary, windows
from fedopt.data.base import FederatedData, Partition
from fedopt.data.partitions.natural_id import NaturalId
from fedopt.types import Task

_PACKAGE = "r-cran-janeaustenr"
_FILE = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
_TITLES = ("emma", "mansfieldpark", "northangerabbey", "persuasion", "prideprejudice", "sensesensibility")
_CHAPTER = re.compile(r"^\s*(?:chapter)\s+(?:[ivxlc]+|\d+)\.?\s*$", re.IGNORECASE)
_HOW = (
    f"Set download: true (fetches the Debian package {_PACKAGE} with apt-get, without installing it), or unpack that "
    "package yourself and name the folder, or its Rdata.rdb, in `path` or in FEDOPT_DATA"
)


class Novels(SplitDataSet):
    """Six novels by Jane Austen (4.0 M characters, public domain): next character, clients are chapters.

    Read from the data file of the Debian package ``r-cran-janeaustenr`` (MIT; R is not needed): an R lazy-load database
    of zlib streams that hold character vectors. Natural owners are the chapters (269 of them) or the six books; text
    before the first chapter is dropped. Windows do not overlap and the last ``test_fraction`` of every chapter is the
    test set. Inputs and targets ``[sequence]`` tokens; the vocabulary is all characters that occur (81).
    """

    partition: Annotated[Partition, KindOf("fedopt.data.partitions")] = Field(
        NaturalId(), description="how windows are assigned to clients; label partitions see the owner as label"
    )
    path: str | None = Field(None, description="folder of the unpacked package, or its Rdata.rdb")
    download: bool = Field(False, description="fetch the Debian package with apt-get if it is not found")
    sequence: int = Field(80, gt=0, description="window length, characters")
    owner: Literal["chapter", "book"] = Field("chapter", description="natural owner of a window")
    test_fraction: float = Field(0.1, gt=0, lt=1, description="last share of every chapter held out for testing")

    def load(self, seed: int) -> FederatedData:
        """Read and split.

        Raises:
            FileNotFoundError: not found; says where it was looked for and how to get it.
        """
        file = self._file()
        documents = [
            Document(f"{title}-{number:02d}" if self.owner == "chapter" else title, chapter)
            for title, lines in zip(_TITLES, read_character_vectors(file), strict=True)
            for number, chapter in enumerate(chapters(lines), start=1)
        ]
        characters = vocabulary(documents)
        train, test = windows(documents, characters, self.sequence, self.test_fraction)
        source = {
            "name": "Jane Austen's novels",
            "licence": "public domain (packaging: MIT)",
            "found": str(file),
            "sha256": digest([file]),
            "vocabulary": characters,
        }
        task = Task("next_token", (self.sequence,), len(characters))
        return assemble(self, seed, task, train, test, tuple(characters), source)

    def _file(self) -> Path:
        try:
            return _inside(find("novels", lambda place: _inside(place).is_file(), self.path, [f"/{_FILE}"], _HOW))
        except FileNotFoundError:
            if not self.download or self.path:
                raise
        fetch_debian(_PACKAGE, data_folders()[0] / "novels")
        return _inside(find("novels", lambda place: _inside(place).is_file(), None, [], _HOW))


def read_character_vectors(path: Path) -> list[list[str]]:
    """All character vectors of an R lazy-load database, in the order of the file.

    The file is a sequence of records: 4 bytes big-endian length after decompression, then a zlib stream, which is R's
    binary (XDR) serialisation, version 3 (R Internals, section 1.8).

    Raises:
        ValueError: damaged, or it holds something else.
    """
    raw, start, found = path.read_bytes(), 0, []
    while start < len(raw):
        stream = zlib.decompressobj()
        try:
            record = stream.decompress(raw[start + 4 :])
        except zlib.error as error:
            raise ValueError(f"{path} is not an R data base of zlib streams, or it is damaged: {error}") from error
        if len(record) != struct.unpack(">I", raw[start : start + 4])[0]:
            raise ValueError(f"{path} is cut off or damaged at byte {start}")
        found.append(_character_vector(record, path))
        start = len(raw) - len(stream.unused_data)
    return found


def _character_vector(record: bytes, path: Path) -> list[str]:
    (encoding_length,) = struct.unpack(">I", record[14:18])  # after "X\n" and three version numbers
    at = 18 + encoding_length
    flags, count = struct.unpack(">II", record[at : at + 8])
    if record[:2] != b"X\n" or flags & 0xFF != 16:
        raise ValueError(f"{path} holds an R object that is not a character vector")
    at += 8
    lines = []
    for _ in range(count):
        (length,) = struct.unpack(">i", record[at + 4 : at + 8])
        size = max(length, 0)  # -1 is NA
        lines.append(record[at + 8 : at + 8 + size].decode("utf-8"))
        at += 8 + size
    return lines


def chapters(lines: list[str]) -> list[str]:
    """Texts of a book's chapters, headings included; what comes before the first heading is dropped."""
    starts = [number for number, line in enumerate(lines) if _CHAPTER.match(line)]
    return ["\n".join(lines[a:b]) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]


def _inside(place: Path) -> Path:
    for candidate in (place / _FILE, place / "Rdata.rdb"):
        if candidate.is_file():
            return candidate
    return place
