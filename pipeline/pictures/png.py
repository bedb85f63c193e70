"""A PNG without what has no say in its picture: comments, profiles, a renderer's settings."""

from __future__ import annotations

import struct
import zlib

from PIL import PngImagePlugin

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PICTURE_CHUNKS = frozenset({b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"})
"""Ancillary chunks that a picture depends on: transparency, orientation, animation."""
_TEXT_CHUNKS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_ORIENTATION_KEYS = frozenset({b"exif", b"xmp", b"Raw profile type exif", b"XML:com.adobe.xmp"})
"""Keywords of the text chunks in which Pillow looks for an EXIF orientation."""


def picture_chunks(data: bytes) -> bytes:
    """`data` without the chunks that its picture does not depend on, if it is a PNG.

    Pillow refuses a whole picture for a text or a colour profile that is malformed or unpacks to
    more than its limits. Neither is needed here, so both are removed, as is a text with an
    orientation if it exceeds those limits (`MAX_TEXT_CHUNK`, `MAX_TEXT_MEMORY`). A chunk whose
    checksum is wrong stays, and everything from the first malformed chunk on: judging damage is
    the decoder's part. Its memory is bounded by the size of `data` and by `MAX_TEXT_CHUNK`.
    """
    if not data.startswith(_SIGNATURE):
        return data
    view = memoryview(data)
    pieces: list[memoryview] = []
    start, kept_from, text_bytes = len(_SIGNATURE), 0, 0
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data) or not kind.isalpha() or kind == b"IEND":
            break
        if kind[:1].islower() and kind not in _PICTURE_CHUNKS:
            body = view[start + 8 : end - 4]
            n_text = _orientation_text_bytes(kind, body)
            if n_text is not None and text_bytes + n_text <= PngImagePlugin.MAX_TEXT_MEMORY:
                text_bytes += n_text
            elif _is_intact(view[start:end]):
                pieces.append(view[kept_from:start])
                kept_from = end
        start = end
    return b"".join([*pieces, view[kept_from:]]) if pieces else data


def _is_intact(chunk: memoryview) -> bool:
    """Whether a chunk's checksum is that of its kind and content."""
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _orientation_text_bytes(kind: bytes, body: memoryview) -> int | None:
    """Unpacked bytes of a text that may hold an orientation; None for any other chunk.

    Also None if Pillow would refuse the text.
    """
    if kind not in _TEXT_CHUNKS:
        return None
    key, found, rest = bytes(body[:80]).partition(b"\0")
    if not found or key not in _ORIENTATION_KEYS:
        return None
    text = body[len(key) + 1 :]
    if kind == b"tEXt":
        return len(text)
    if kind == b"zTXt":
        return _unpacked_bytes(text[1:]) if rest[:1] in (b"", b"\0") else None
    packed, method = rest[:1] not in (b"", b"\0"), rest[1:2]
    if not packed:
        return len(text)
    return _unpacked_bytes(bytes(text[2:]).split(b"\0", 2)[-1]) if method == b"\0" else None


def _unpacked_bytes(packed: bytes | memoryview) -> int | None:
    """Size of a compressed text; None if it exceeds Pillow's limit, 0 if it is damaged."""
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(packed, PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:
        return 0
    return None if inflate.unconsumed_tail else len(text)
