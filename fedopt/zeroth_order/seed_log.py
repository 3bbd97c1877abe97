"""The seed log: a model as a checkpoint plus the scalars that moved it.

A record says: along directions first_index, first_index + 1, ... of the stream ``key``, move by minus step_size times
each scalar. MeZO, Just-One-Byte, FedKSeed, DeComFL and FeedSign differ in who picks keys and how scalars are combined
and sent; the log and its replay are the same. Replay is bit for bit, because

* the coefficient -(step_size * scalar) is one double product, rounded to the model's type;
* records are applied in order;
* scalars are stored as they were transmitted (after quantisation), and applied in that form by everybody;
* models are perturbed on copies, so evaluation leaves no residue.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch

from fedopt.zeroth_order import one_byte
from fedopt.zeroth_order.directions import DirectionKind, Directions

ScalarFormat = Literal["float64", "float32", "byte", "sign"]
_FORMATS: tuple[ScalarFormat, ...] = ("float64", "float32", "byte", "sign")
_KINDS: tuple[DirectionKind, ...] = ("rademacher", "gaussian", "sphere", "coordinate")
_MAGIC = b"FOSEED1\0"
_HEADER = struct.Struct("<8sBBQQ")  # magic, kind, format, dimension, records
_RECORD = struct.Struct("<Q16sQdI")  # step, key, first index, step size, scalars


class Record(NamedTuple):
    """One or more moves along consecutive directions of one stream."""

    step: int
    key: int  # 128 bits
    scalars: tuple[float, ...]
    step_size: float  # theta <- theta - step_size * scalar * z
    first_index: int = 0


@dataclass(frozen=True)
class SeedLog:
    """An ordered list of records for models of one dimension.

    Args:
        kind: kind of directions.
        dimension: number of parameters.
        records: in the order in which they were applied.
    """

    kind: DirectionKind
    dimension: int
    records: tuple[Record, ...] = ()

    def extend(self, records: Iterable[Record]) -> SeedLog:
        """The log with records added.

        Raises:
            ValueError: a scalar or a step size is not finite.
        """
        added = tuple(records)
        for record in added:
            if not all(map(math.isfinite, (*record.scalars, record.step_size))):
                raise ValueError(f"the record of step {record.step} holds NaN or infinity; it cannot be replayed")
        return replace(self, records=self.records + added)

    def since(self, step: int) -> SeedLog:
        """The records of ``step`` and later: what a client that has seen all earlier steps still needs."""
        return replace(self, records=tuple(r for r in self.records if r.step >= step))

    @property
    def num_scalars(self) -> int:
        """Scalars in all records."""
        return sum(len(record.scalars) for record in self.records)

    def to_bytes(self, scalar_format: ScalarFormat = "float64") -> bytes:
        """Serialise, with scalars in one format; refuses a format that would change a scalar."""
        kind = _KINDS.index(self.kind)
        parts = [_HEADER.pack(_MAGIC, kind, _FORMATS.index(scalar_format), self.dimension, len(self.records))]
        for record in self.records:
            key = record.key.to_bytes(16, "little")
            parts.append(_RECORD.pack(record.step, key, record.first_index, record.step_size, len(record.scalars)))
            parts.append(pack_scalars(record.scalars, scalar_format))
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> SeedLog:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: not a seed log, or cut short.
        """
        if data[:8] != _MAGIC:
            raise ValueError("these bytes are not a seed log")
        place, count, records = _HEADER.size, 0, []
        try:
            _, kind, format_index, dimension, count = _HEADER.unpack_from(data)
            made = cls(_KINDS[kind], dimension)
            for _ in range(count):
                step, key, first, step_size, size = _RECORD.unpack_from(data, place)
                place += _RECORD.size
                length = payload_bytes(size, _FORMATS[format_index])
                scalars = unpack_scalars(data[place : place + length], size, _FORMATS[format_index])
                place += length
                records.append(Record(step, int.from_bytes(key, "little"), scalars, step_size, first))
            if place != len(data):
                raise ValueError(f"{len(data) - place} bytes follow the last record")
        except (struct.error, ValueError, IndexError) as error:
            raise ValueError(f"the seed log is cut short or damaged after {len(records)} of {count} records") from error
        return replace(made, records=tuple(records))

    def to_json(self) -> str:
        """One JSON object; keys as hexadecimal text, numbers round-trip exactly."""
        records = [{**r._asdict(), "key": f"{r.key:032x}"} for r in self.records]
        return json.dumps({"kind": self.kind, "dimension": self.dimension, "records": records}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> SeedLog:
        """Read what `to_json` wrote."""
        read = json.loads(text)
        records = (Record(**{**r, "key": int(r["key"], 16), "scalars": tuple(r["scalars"])}) for r in read["records"])
        return cls(read["kind"], read["dimension"]).extend(records)


def apply_(theta: torch.Tensor, kind: DirectionKind, records: Iterable[Record]) -> torch.Tensor:
    """Apply records to a model ``[d]`` in place, in order."""
    for record in records:
        coefficients = [-(record.step_size * scalar) for scalar in record.scalars]
        Directions(kind, theta.numel(), record.key).add_(theta, coefficients, record.first_index)
    return theta


def replay(checkpoint: torch.Tensor, log: SeedLog) -> torch.Tensor:
    """The model ``[d]`` that results from a checkpoint ``[d]`` and a log; the checkpoint is not changed."""
    return apply_(checkpoint.clone(), log.kind, log.records)


def exact_hash(theta: torch.Tensor) -> str:
    """Fingerprint of the bits of a model: equal exactly where replay succeeded."""
    raw = theta.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.blake2b(raw.tobytes(), digest_size=16).hexdigest()


def rounded_hash(theta: torch.Tensor, decimals: int = 3) -> str:
    """Fingerprint of a model rounded to decimals: drift control between machines whose arithmetic differs.

    A parameter that lies on a rounding boundary can change it, so unequal means: compare or resynchronise.
    References: Zelikman et al. 2023 compare rounded weights every 64 iterations.
    """
    grid = torch.round(theta.detach().double().cpu() * 10**decimals).to(torch.int64)
    return hashlib.blake2b(grid.numpy().tobytes(), digest_size=16).hexdigest()


def payload_bytes(count: int, scalar_format: ScalarFormat) -> int:
    """Bytes of ``count`` scalars; signs are packed eight to a byte."""
    return -(-count // 8) if scalar_format == "sign" else count * {"float64": 8, "float32": 4, "byte": 1}[scalar_format]


def pack_scalars(scalars: tuple[float, ...], scalar_format: ScalarFormat) -> bytes:
    """Scalars as bytes, without loss.

    Raises:
        ValueError: a scalar is not exactly representable, for example because it was not quantised first.
    """
    values = np.array(scalars, dtype=np.float64)
    if scalar_format == "float64":
        packed = values.astype("<f8").tobytes()
    elif scalar_format == "float32":
        packed = values.astype("<f4").tobytes()
    elif scalar_format == "byte":
        packed = one_byte.encode(torch.from_numpy(values)).numpy().tobytes()
    else:
        packed = np.packbits(values > 0, bitorder="little").tobytes()
    if unpack_scalars(packed, len(scalars), scalar_format) != tuple(scalars):
        raise ValueError(f"the format {scalar_format} would change a scalar; log the transmitted values")
    return packed


def unpack_scalars(data: bytes, count: int, scalar_format: ScalarFormat) -> tuple[float, ...]:
    """Scalars from the bytes of `pack_scalars`."""
    if len(data) != payload_bytes(count, scalar_format):
        raise ValueError(f"expected {payload_bytes(count, scalar_format)} bytes of scalars, got {len(data)}")
    if scalar_format == "byte":
        return tuple(one_byte.decode(torch.from_numpy(np.frombuffer(data, np.uint8).copy())).tolist())
    if scalar_format == "sign":
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little")
        return tuple((2.0 * bits - 1.0).tolist())
    return tuple(np.frombuffer(data, "<f8" if scalar_format == "float64" else "<f4").astype(np.float64).tolist())
