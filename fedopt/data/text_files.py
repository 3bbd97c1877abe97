"""Any folder of text files, for next-character prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedopt.components import KindOf
from fedopt.data._assemble import SplitDataSet, assemble
from fedopt.data._fetch import digest, find
from fedopt.data._text import Document, vocabulary, windows
from fedopt.data.base import FederatedData, Partition
from fedopt.data.partitions.natural_id import NaturalId
from fedopt.types import Task


class TextFiles(SplitDataSet):
    """Your own folder of .txt files: next character, clients are files or the folders they lie in.

    Files are read as UTF-8 in the order of their paths, subfolders included. Natural owner: the file, or with ``owner:
    folder`` the folder it lies in (one folder per author). Windows do not overlap and the last ``test_fraction`` of
    every file is the test set. Inputs and targets ``[sequence]`` tokens; the vocabulary is all characters that occur.
    """

    partition: Annotated[Partition, KindOf("fedopt.data.partitions")] = Field(
        NaturalId(), description="how windows are assigned to clients; label partitions see the owner as label"
    )
    path: str = Field(description="folder with .txt files")
    sequence: int = Field(80, gt=0, description="window length, characters")
    owner: Literal["file", "folder"] = Field("file", description="natural owner of a window")
    test_fraction: float = Field(0.1, gt=0, lt=1, description="last share of every file held out for testing")

    def load(self, seed: int) -> FederatedData:
        """Read and split.

        Raises:
            FileNotFoundError: no such folder, or no .txt file in it.
        """
        folder = find("text_files", Path.is_dir, self.path, [], "Name a folder with .txt files in `path`")
        files = sorted(folder.rglob("*.txt"))
        if not files:
            raise FileNotFoundError(f"{folder} holds no .txt file: name a folder that does in `path`")
        documents = [Document(self._owner(file, folder), file.read_text("utf-8")) for file in files]
        characters = vocabulary(documents)
        train, test = windows(documents, characters, self.sequence, self.test_fraction)
        source = {"name": folder.name, "found": str(folder), "sha256": digest(files), "vocabulary": characters}
        task = Task("next_token", (self.sequence,), len(characters))
        return assemble(self, seed, task, train, test, tuple(characters), source)

    def _owner(self, file: Path, folder: Path) -> str:
        return str((file if self.owner == "file" else file.parent).relative_to(folder))
