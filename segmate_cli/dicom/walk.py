"""Walk through the elements of a DICOM stream and keep the bytes of the few that are wanted.

Written for files that lie: nothing recurses, no declared length is trusted, values that nobody
asked for (a patient's name among them) are skipped and never read. DICOM PS3.5, section 7.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import BinaryIO

PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
# Their length takes four bytes behind two empty ones.
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
# No attribute that segmate reads is longer, except pixels.
_LONGEST_VALUE = 1 << 16


class ElementWalker:
    """Elements of a data set, from the stream's place on.

    Args:
        stream: Seekable, with the first element next.
        size: Length of the whole stream.
        explicit: Whether elements carry their VR; one that has none is read without.
        big_endian: Byte order.
    """

    def __init__(
        self, stream: BinaryIO, size: int, *, explicit: bool, big_endian: bool = False
    ) -> None:
        self._stream, self._size, self._explicit = stream, size, explicit
        order = ">" if big_endian else "<"
        self._short = struct.Struct(order + "HH2sH")
        self._plain = struct.Struct(order + "HHL")
        self._long = struct.Struct(order + "L")

    def collect(self, wanted: frozenset[int], stop_at: int) -> dict[int, bytes]:
        """Values of ``wanted`` tags up to the first tag that is ``stop_at`` or greater.

        The stream is left at that element. A value is b"" for an element with items.

        Raises:
            EOFError: the stream ends inside an element.
            ValueError: what follows is no element, or a value is absurdly long.
        """
        found: dict[int, bytes] = {}
        for tag, length, explicit, start in self._elements(self._explicit):
            if tag >= stop_at:
                self._stream.seek(start)
                break
            if length == _UNDEFINED:
                self._skip_sequence(explicit)
                value = b""
            elif tag not in wanted:
                self._skip(length)
                continue
            elif length > _LONGEST_VALUE:
                raise ValueError("an attribute is absurdly long")
            else:
                value = self._take(length)
            if tag in wanted:
                found[tag] = value
        return found

    def collect_items(
        self, sequences: frozenset[int], groups: frozenset[int], wanted: frozenset[int], most: int
    ) -> dict[int, list[dict[int, bytes]]]:
        """For each item of some sequences before the pixels, values of ``wanted`` tags.

        Args:
            sequences: Of the data set, by tag.
            groups: Sequences inside of their items, whose first items hold the values.
            wanted: The values, by tag.
            most: Items of a sequence.

        Raises:
            EOFError, ValueError: as ``collect``; too many items.
        """
        found: dict[int, list[dict[int, bytes]]] = {}
        for tag, length, explicit, _ in self._elements(self._explicit):
            if tag >= PIXEL_DATA & 0xFFFF0000:
                break
            if tag in sequences:
                items = self._items(length, explicit, (groups, frozenset()), wanted)
                found[tag] = list(itertools.islice(items, most + 1))
                if len(found[tag]) > most:
                    raise ValueError("a sequence has absurdly many items")
            elif length == _UNDEFINED:
                self._skip_sequence(explicit)
            else:
                self._skip(length)
        return found

    def _items(
        self,
        length: int,
        explicit: bool,
        below: tuple[frozenset[int], ...],
        wanted: frozenset[int],
    ) -> Iterator[dict[int, bytes]]:
        """Values of each item of a sequence, which comes next, and of sequences ``below`` in it."""
        end = None if length == _UNDEFINED else self._stream.tell() + length
        while end is None or self._stream.tell() < end:
            tag, size = self._item()
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise ValueError("a sequence holds something else than items")
            yield self._values(size, explicit, below, wanted)

    def _values(
        self,
        length: int,
        explicit: bool,
        below: tuple[frozenset[int], ...],
        wanted: frozenset[int],
    ) -> dict[int, bytes]:
        end = None if length == _UNDEFINED else self._stream.tell() + length
        found: dict[int, bytes] = {}
        while end is None or self._stream.tell() < end:
            tag, size, inside, _ = next(self._elements(explicit), (0, -1, False, 0))
            if size < 0:
                raise EOFError
            if tag == _ITEM_END:
                break
            if tag in below[0]:
                for n, values in enumerate(self._items(size, inside, below[1:], wanted)):
                    found.update(values if n == 0 else {})
            elif size == _UNDEFINED:
                self._skip_sequence(inside)
            elif tag in wanted and size <= _LONGEST_VALUE:
                found[tag] = self._take(size)
            else:
                self._skip(size)
        return found

    def pixel_data(self) -> tuple[bytes, bool]:
        """Value of PixelData, the next element; for compressed ones all items, and True.

        Raises:
            EOFError: the stream ends before the pixels do.
            ValueError: there is no pixel data.
        """
        start, length = self.pixel_place()
        if length is not None:
            return self._take(length), False
        while True:
            item, size = self._item()
            if item == _SEQUENCE_END:
                break
            if item != _ITEM:
                raise ValueError("its pixel data is no sequence of items")
            self._skip(size)
        end = self._stream.tell() - 8
        self._stream.seek(start)
        return self._take(end - start), True

    def pixel_place(self) -> tuple[int, int | None]:
        """Where the value of PixelData, the next element, begins; its length, if not compressed.

        Raises:
            ValueError: there is no pixel data.
        """
        tag, length, _, _ = next(self._elements(self._explicit), (0, 0, False, 0))
        if tag != PIXEL_DATA:
            raise ValueError("it has no pixel data")
        return self._stream.tell(), None if length == _UNDEFINED else length

    def _elements(self, explicit: bool) -> Iterator[tuple[int, int, bool, int]]:
        """(tag, length, whether it has a VR other than UN, where it starts)."""
        while True:
            start = self._stream.tell()
            head = self._stream.read(8)
            if len(head) < 8:
                return
            group, element, vr, length = self._short.unpack(head)
            with_vr = explicit and vr.isalpha() and vr.isupper()
            if with_vr and vr in _LONG_VRS:
                length = self._long.unpack(self._take(4))[0]
            elif not with_vr:
                group, element, length = self._plain.unpack(head)
            # A sequence of unknown VR is always implicit inside.
            yield group << 16 | element, length, with_vr and vr != b"UN", start

    def _skip_sequence(self, explicit: bool) -> None:
        """Skip items up to the end of a sequence of undefined length, however deep."""
        open_now: list[tuple[str, bool]] = [("sequence", explicit)]
        while open_now:
            kind, explicit = open_now[-1]
            if kind == "sequence":
                tag, length = self._item()
                if tag == _SEQUENCE_END:
                    open_now.pop()
                elif tag != _ITEM:
                    raise ValueError("a sequence holds something else than items")
                elif length == _UNDEFINED:
                    open_now.append(("item", explicit))
                else:
                    self._skip(length)
                continue
            tag, length, explicit, _ = next(self._elements(explicit), (0, -1, False, 0))
            if length < 0:
                raise EOFError
            if tag == _ITEM_END:
                open_now.pop()
            elif length == _UNDEFINED:
                open_now.append(("sequence", explicit))
            else:
                self._skip(length)

    def _item(self) -> tuple[int, int]:
        group, element, length = self._plain.unpack(self._take(8))
        return group << 16 | element, length

    def _skip(self, length: int) -> None:
        if length > self._size - self._stream.tell():
            raise EOFError
        self._stream.seek(length, 1)

    def _take(self, length: int) -> bytes:
        if length > self._size - self._stream.tell():
            raise EOFError
        value = self._stream.read(length)
        if len(value) < length:
            raise EOFError
        return value
