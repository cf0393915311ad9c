"""Tensors of a safetensors file onto a device, read by several threads: to a GPU through pinned memory, while the next bytes are read.

What safetensors itself gives is pages of the file that a copy to a GPU first brings into memory, one after the other.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
            made = {name: (at, torch.empty(shape, dtype=kind, device=device)) for name, kind, shape, at in group}
            pieces = iter(_pieces([(at, tensor.reshape(-1).view(torch.uint8)) for at, tensor in made.values()]))
            turns, ready = threading.Lock(), torch.cuda.current_stream(device) if device.type == "cuda" else None
            for reader in [readers.submit(_read, path, pieces, turns, device, ready) for _ in range(READERS)]:
                reader.result()
            found.update({name: tensor.to(dtype) for name, (_, tensor) in made.items()})
    return found


Entry = tuple[str, torch.dtype, tuple[int, ...], int]  # name, type, shape, place in the file


def _layout(path: Path) -> list[Entry]:
    """In the order of the file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in TYPES:
            raise ValueError(f"{path}: {name} is stored as {entry['dtype']}; expected one of {', '.join(TYPES)}")
    entries = [(name, TYPES[e["dtype"]], tuple(e["shape"]), 8 + length + e["data_offsets"][0]) for name, e in header.items()]
    return sorted(entries, key=lambda entry: entry[3])


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Neighbours of up to GROUP bytes, or one that is larger."""
    group: list[Entry] = []
    for entry in entries:
        if group and entry[3] - group[0][3] >= GROUP:
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


def _read(path: Path, pieces: Iterator[Piece], turns: threading.Lock, device: torch.device, ready: torch.cuda.Stream | None) -> None:
    """One reader's share: whichever piece is next, until there is none. `ready`: the stream on which the tensors were made."""
    stream = torch.cuda.Stream(device) if ready is not None else None
    with torch.cuda.stream(stream), open(path, "rb", buffering=0) as file:
        if stream is not None:
            stream.wait_stream(ready)
        buffers = [torch.empty(PIECE, dtype=torch.uint8, pin_memory=stream is not None) for _ in range(2)]
        sent = [torch.cuda.Event() if stream is not None else None for _ in buffers]
        turn = 0
        while True:
            with turns:
                piece = next(pieces, None)
            if piece is None:
                break
            start, end = piece[0][0], piece[-1][0] + len(piece[-1][1])
            if sent[turn] is not None:
                sent[turn].synchronize()
            file.seek(start)
            _fill(memoryview(buffers[turn].numpy())[: end - start], file.readinto, path)
            for at, part in piece:
                part.copy_(buffers[turn][at - start : at - start + len(part)], non_blocking=True)
            if sent[turn] is not None:
                sent[turn].record(stream)
            turn = 1 - turn
        if stream is not None:
            stream.synchronize()


def _fill(memory: memoryview, read_into: object, path: Path) -> None:
    done = 0
    while done < len(memory):
        count = read_into(memory[done:])
        if not count:
            raise ValueError(f"{path}: ends before its header says; fetch it again")
        done += count
