"""What a file is by its first bytes, whatever its name says."""

import re
from dataclasses import dataclass
from pathlib import Path

_READ = 512


@dataclass(frozen=True)
class FileKind:
    """What a file is, in words that follow "is", and what to do about it where that is the same whatever was wanted."""

    name: str
    mend: str = ""


_EMPTY = FileKind("empty", "get it again")
_STARTS = (
    (b"version https://git-lfs", FileKind("a Git LFS pointer, not the file itself", "run `git lfs pull`")),
    (b"GGUF", FileKind("a GGUF file")),
    (b"\x89HDF", FileKind("an HDF5 file")),
    (b"\x1f\x8b", FileKind("compressed by gzip", "unpack it")),
    (b"7z\xbc\xaf", FileKind("a 7z archive", "unpack it")),
    (b"Rar!", FileKind("a RAR archive", "unpack it")),
    (b"\x28\xb5\x2f\xfd", FileKind("compressed by zstd", "unpack it")),
    (b"BZh", FileKind("compressed by bzip2", "unpack it")),
    (b"\xfd7zXZ", FileKind("compressed by xz", "unpack it")),
    (b"\x93NUMPY", FileKind("a NumPy array")),
    (b"ARROW1", FileKind("an Arrow (Feather) table")),
    (b"SQLite format 3", FileKind("an SQLite database")),
    (b"\xd0\xcf\x11\xe0", FileKind("a document of old Office programs (Excel, Word)")),
    (b"PAR1", FileKind("a Parquet table")),
    (b"%PDF", FileKind("a PDF")),
    (b"\x89PNG", FileKind("a PNG picture")),
    (b"\xff\xd8\xff", FileKind("a JPEG picture")),
    (b"#EXTM3U", FileKind("a playlist, which names other files")),
    (b"ffconcat", FileKind("a playlist, which names other files")),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<body")
_PAGE = FileKind("a web page", "download the file itself")
_SAFETENSORS = FileKind("a safetensors file")
_ZIP = FileKind("a zip archive, as torch writes them")
_OFFICE = FileKind("a document of Office programs (Excel, Word)")
_OTHER_ZIP = FileKind("a zip archive", "unpack it")
_TAR = FileKind("a tar archive", "unpack it")
_TORCH_ENTRY = re.compile(rb"[^/]+/(?:data|version|byteorder|code|constants|extra|\.)")
_PICKLE = FileKind("a pickle")
_TEXT = FileKind("a text")


def kinds() -> list[str]:
    """The names of all kinds that are known."""
    told = (
        *(kind for _, kind in _STARTS),
        _EMPTY,
        _PAGE,
        _SAFETENSORS,
        _ZIP,
        _OFFICE,
        _OTHER_ZIP,
        _TAR,
        _PICKLE,
        _TEXT,
    )
    return list(dict.fromkeys(kind.name for kind in told))


def file_kind(path: str | Path) -> FileKind | None:
    """The kind of a file by its content; None for all that it does not know.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        start = file.read(_READ)
    if not start:
        return _EMPTY
    for magic, kind in _STARTS:
        if start.startswith(magic):
            return kind
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        return _PAGE
    if is_safetensors(start):
        return _SAFETENSORS
    if start.startswith(b"PK\x03\x04"):
        return _zip(start)
    if start[257:262] == b"ustar":
        return _TAR
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return _PICKLE
    return _TEXT if _is_text(start) else None


def _zip(start: bytes) -> FileKind:
    """Of a zip archive, by the name of its first entry: 30 bytes from its start, of the length at 26."""
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
    if _TORCH_ENTRY.match(name):
        return _ZIP
    return _OFFICE if name.startswith((b"[Content_Types]", b"_rels/", b"xl/", b"mimetype")) else _OTHER_ZIP


def is_safetensors(start: bytes) -> bool:
    """Whether a file that starts so is one of safetensors: the length of a JSON header, then the header."""
    return len(start) > 8 and start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") < 2**32


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # else a character that the read has cut
            return False
        text = start[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\n\r\f" for character in text)
