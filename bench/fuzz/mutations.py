"""Small random changes to bytes; the same seed gives the same changes."""

import random

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Values at which counters wrap, signs change and lengths overflow."""
WORDS = (
    *(b"", b"\0", b"\n", b"\r\n", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"%0d%0a", b"%00", b"../"),
    *(b"-1", b"0.5", b"1e999", b"NaN", b"null", b"true", b"{}", b"[]", b'""', b"[" * 900),
    *(b"9" * 30, b"\0\0\1", b"\0\0\0\1\x67", b"\0\0\0\1\x65\x88", b"A" * 300),
)
"""Pieces that readers of text and of H.264 often handle wrongly."""


class Mutator:
    """Changes valid inputs a little: bits, numbers, pieces and whole parts."""

    def __init__(self, seed: int, separator: bytes | None = None) -> None:
        """With a `separator`, inputs are lists of parts."""
        self._random, self._separator = random.Random(seed), separator

    def __call__(self, seeds: list[bytes]) -> bytes:
        """Returns one of the seeds with one or several changes."""
        chance = self._random
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 9, 17))):
            if self._separator is not None and chance.random() < 0.4:
                data = self._change_parts(bytes(data), bytes(chance.choice(seeds)))
            else:
                self._change_bytes(data, chance.choice(seeds))
        return bytes(data)

    def _change_bytes(self, data: bytearray, other: bytes) -> None:
        chance = self._random
        start = self._place(data)
        end = min(len(data), start + chance.choice((1, 2, 4, 8, 100)))
        match chance.randrange(8):
            case 0 | 1 if data:
                data[min(start, len(data) - 1)] ^= 1 << chance.randrange(8)
            case 2:
                data[start:end] = chance.randbytes(end - start)
            case 3:
                length = chance.choice((1, 2, 4))
                number = chance.choice(NUMBERS) % (1 << 8 * length)
                data[start : start + length] = number.to_bytes(
                    length, chance.choice(("big", "little"))
                )
            case 4:
                data[start:start] = chance.choice(WORDS)
            case 5:
                del data[start : chance.choice((end, end, end, len(data)))]
            case 6:
                data[start:start] = data[start:end] * chance.choice((1, 1, 30))
            case 7:
                at = self._place(other)
                data[start:end] = other[at : at + chance.choice((4, 16, 64, 1000))]

    def _place(self, data: bytes | bytearray) -> int:
        """Returns an index; half of the time among the first bytes, which contain headers."""
        end = len(data) if self._random.random() < 0.5 else min(len(data), 64)
        return self._random.randint(0, end)

    def _change_parts(self, data: bytes, other: bytes) -> bytearray:
        chance, separator = self._random, self._separator or b""
        parts, others = data.split(separator), other.split(separator)
        at, to = chance.randrange(len(parts)), chance.randrange(len(parts))
        length = chance.choice((1, 1, 2, 5, 20))
        match chance.randrange(6):
            case 0:
                del parts[at : at + length]
            case 1:
                parts[to:to] = parts[at : at + length]
            case 2:
                parts[at], parts[to] = parts[to], parts[at]
            case 3:
                parts.insert(to, parts.pop(at))
            case 4:
                begin = chance.randrange(len(others))
                parts[at:at] = others[begin : begin + length]
            case 5:
                part = bytearray(parts[at])
                self._change_bytes(part, other)
                parts[at] = bytes(part)
        return bytearray(separator.join(parts))
