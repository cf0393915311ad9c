"""Tensors of a safetensors file onto a device, read by several threads: to a GPU through pinned memory, while the next bytes are read.

What safetensors itself gives is pages of the file that a copy to a GPU first brings into memory, one after the other.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

READERS = 4
PIECE = 8 * 2**20  # bytes that a reader holds, twice: one is read while the other is on its way
GROUP = 512 * 2**20  # bytes of tensors that are on the device in the file's type and not yet in the wanted one
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

Piece = list[tuple[int, Tensor]]  # places in the file that lie together, and the bytes that they are for


def read_tensors_to(path: Path, device: torch.device | str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything in a file that `safetensors.safe_open` accepts, on `device` in `dtype`.

    Raises ValueError for types that PyTorch computes nothing in, and for a file that ends before its header says.
    """
    device, found = torch.device(device), {}
    with ThreadPoolExecutor(READERS) as readers:
        for group in _groups(_layout(path)):
            made = {entry.name: torch.empty(entry.shape, dtype=entry.dtype, device=device) for entry in group}
            pieces = deque(_pieces([(entry.at, made[entry.name].reshape(-1).view(torch.uint8)) for entry in group]))
            ready = torch.cuda.current_stream(device) if device.type == "cuda" else None
            work = [readers.submit(_read, path, pieces, device, ready) for _ in range(READERS)]
            try:
                wait(work, return_when=FIRST_EXCEPTION)
            finally:
                pieces.clear()  # where a reader failed, or after Ctrl-C, the others stop too
            for reader in work:
                reader.result()
            found.update({name: tensor.to(dtype) for name, tensor in made.items()})
            del made  # before the next group takes its memory
    return found


class Entry(NamedTuple):
    """A tensor of the file, and where its bytes begin."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    at: int


def _layout(path: Path) -> list[Entry]:
    """The tensors of a file, in its order. Raises ValueError for one of another type than TYPES."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in TYPES:
            raise ValueError(f"{path}: {name} is stored as {entry['dtype']}; expected one of {', '.join(TYPES)}")
    entries = [Entry(name, TYPES[e["dtype"]], tuple(e["shape"]), 8 + length + e["data_offsets"][0]) for name, e in header.items()]
    return sorted(entries, key=lambda entry: entry.at)


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Neighbours of up to GROUP bytes, or one that is larger."""
    group: list[Entry] = []
    for entry in entries:
        if group and entry.at - group[0].at >= GROUP:
            yield group
            group = []
        group.append(entry)
    yield group


def _pieces(tensors: Sequence[tuple[int, Tensor]]) -> list[Piece]:
    """Bytes of tensors, in the order of the file, in pieces of it that span PIECE bytes at most."""
    pieces: list[Piece] = []
    for at, whole in tensors:
        for start in range(0, len(whole), PIECE):
            part = whole[start : start + PIECE]
            if pieces and at + start + len(part) - pieces[-1][0][0] <= PIECE:
                pieces[-1].append((at + start, part))
            else:
                pieces.append([(at + start, part)])
    return pieces


def _read(path: Path, pieces: deque[Piece], device: torch.device, ready: torch.cuda.Stream | None) -> None:
    """One reader's share: whichever piece is next, until there is none. `ready`: the stream on which the tensors were made."""
    stream = torch.cuda.Stream(device) if ready is not None else None
    with torch.cuda.stream(stream), open(path, "rb", buffering=0) as file:
        if stream is not None and ready is not None:
            stream.wait_stream(ready)
        buffers = [torch.empty(PIECE, dtype=torch.uint8, pin_memory=stream is not None) for _ in range(2)]
        sent = [torch.cuda.Event() if stream is not None else None for _ in buffers]
        turn = 0
        try:
            while (piece := _next(pieces)) is not None:
                start, end = piece[0][0], piece[-1][0] + len(piece[-1][1])
                event = sent[turn]
                if event is not None:
                    event.synchronize()
                file.seek(start)
                _fill(buffers[turn].numpy().data[: end - start], file.readinto, path)
                for at, part in piece:
                    part.copy_(buffers[turn][at - start : at - start + len(part)], non_blocking=True)
                if event is not None:
                    event.record(stream)
                turn = 1 - turn
        finally:
            if stream is not None:
                stream.synchronize()  # after an error too: the memory that the copies write to is given back then


def _next(pieces: deque[Piece]) -> Piece | None:
    try:
        return pieces.popleft()
    except IndexError:
        return None


def _fill(memory: memoryview, read_into: Callable[[memoryview], int | None], path: Path) -> None:
    done = 0
    while done < len(memory):
        count = read_into(memory[done:])
        if not count:
            raise ValueError(f"{path}: ends before its header says; fetch it again")
        done += count
