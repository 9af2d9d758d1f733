"""Tables and fields that fit the terminal: columns are left out by priority, names are cut, sentences are wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from .terminal import encodable, printable, wrapped

#: The cells between two columns.
GAP = 2

#: How far a column is cut before another is left out, unless told otherwise, and how far if there is none left to
#: leave out.
SHORT, SHORTEST = 16, 6

#: The width that a column of sentences needs.
SENTENCE = 30

#: The width below which a field's value stands under its name and not beside it.
BESIDE = 20

#: How many characters a cell of the terminal may hold: a letter, and marks that combine with it.
MARKS = 4


class Listing:
    """A table without borders, laid out for the width it is printed in.

    Parameters:
      headers(Sequence): The columns' names.
      rows(Iterable): Their values.
      right(Sequence): The columns that are aligned to the right; they are not cut.
      drop(Sequence): The columns to leave out where there is no room, the least important first.
      wrap(str): The column that is wrapped and not cut, if any.
      least(Mapping): The width to which a column may be cut before another is left out, if not :data:`SHORT`.
    """

    def __init__(
        self,
        headers: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        right: Sequence[str] = (),
        drop: Sequence[str] = (),
        wrap: str | None = None,
        least: Mapping[str, int] | None = None,
    ) -> None:
        self.headers = list(headers)
        self.rows = [[_cell(value) for value in row] for row in rows]
        self.right, self.drop, self.wrap = right, drop, wrap
        self.least = ({wrap: SENTENCE} if wrap else {}) | dict(least or {})

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        encoding = console.encoding
        # Nothing of a cell that is longer than this can be seen, and measuring it takes time.
        most = MARKS * options.max_width
        rows = [
            [
                _encoded_cell(cell, encoding, None if header == self.wrap else most)
                for header, cell in zip(self.headers, row, strict=True)
            ]
            for row in self.rows
        ]
        naturals = {header: self._natural(column, rows) for column, header in enumerate(self.headers)}
        widths = self._fit(naturals, options.max_width)
        made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        for header, width in widths.items():
            made.add_column(
                _shortened(Text(header), width, encoding),
                justify="right" if header in self.right else "left",
                width=width,
                no_wrap=True,
            )
        for row in rows:
            cells = dict(zip(self.headers, row, strict=True))
            made.add_row(*(self._shown(header, cells[header], width, encoding) for header, width in widths.items()))
        yield made

    def _shown(self, header: str, cell: Text, width: int, encoding: str) -> Text:
        if header == self.wrap:
            return Text("\n".join(wrapped(cell.plain, width)), cell.style)
        return _shortened(cell, width, encoding)

    def _natural(self, column: int, rows: Sequence[Sequence[Text]]) -> int:
        return max(cell_len(self.headers[column]), *(cell_len(row[column].plain) for row in rows), 1)

    def _fit(self, naturals: Mapping[str, int], room: int) -> dict[str, int]:
        """The widths of the columns to show, together at most so many cells."""
        shown = dict(naturals)
        last = sorted(self.headers[1:], key=lambda header: header == self.wrap)
        for limits, dropped in ((self._limits(), self.drop), (self._limits(SHORTEST), last)):
            for header in ("", *dropped):
                shown.pop(header, None)
                widths = self._cut(shown, room, limits)
                if _taken(widths) <= room:
                    return widths
        return {self.headers[0]: max(room, 1)}

    def _limits(self, shortest: int | None = None) -> dict[str, int]:
        """How far each column that may be cut is cut at most."""
        cuttable = [header for header in self.headers if header not in self.right]
        return {header: shortest or self.least.get(header, SHORT) for header in cuttable}

    def _cut(self, naturals: Mapping[str, int], room: int, limits: Mapping[str, int]) -> dict[str, int]:
        """Cut the widest columns until all fit, or none can be cut further."""
        widths = {header: min(width, room) if header in limits else width for header, width in naturals.items()}
        while _taken(widths) > room:
            able = [header for header in widths if widths[header] > limits.get(header, widths[header])]
            if not able:
                break
            widths[max(able, key=lambda header: widths[header])] -= 1
        return widths


class Fields:
    """Names with their values beside them, which are wrapped to the terminal and never cut.

    Parameters:
      fields(Mapping): The values by their names; those of several lines keep them.
    """

    def __init__(self, fields: Mapping[str, object]) -> None:
        self.fields = {name: printable(value).strip("\n") for name, value in fields.items()}

    def lines(self, width: int | None, encoding: str) -> Iterator[str]:
        """The lines for a terminal of so many cells; for a file if there is no width."""
        margin = max(map(len, self.fields), default=0) + GAP
        below = width is not None and width - margin < BESIDE
        for name, value in self.fields.items():
            text = encodable(value, encoding)
            room = None if width is None else width - (GAP if below else margin)
            rows = [row for line in text.split("\n") for row in (wrapped(line, room) if room else [line])]
            if below:
                yield from (name, *(f"{'':<{GAP}}{row}".rstrip() for row in rows))
                continue
            yield f"{name:<{margin}}{rows[0]}".rstrip()
            yield from (f"{'':<{margin}}{row}".rstrip() for row in rows[1:])


def _taken(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + GAP * max(len(widths) - 1, 0)


def _cell(value: object) -> Text:
    return value if isinstance(value, Text) else Text(printable(value).replace("\n", " ").replace("\t", " "))


def _encoded_cell(text: Text, encoding: str, most: int | None) -> Text:
    plain = text.plain if most is None or len(text.plain) <= most else f"{text.plain[:most]}…"
    plain = encodable(plain, encoding)
    return text if plain == text.plain else Text(plain, text.style)


def _shortened(text: Text, width: int, encoding: str) -> Text:
    plain = text.plain
    if cell_len(plain) <= width and len(plain) <= MARKS * width:
        return text
    ellipsis = encodable("…", encoding)
    room = max(width - len(ellipsis), 0)
    return Text(set_cell_size(plain[: MARKS * room], room).rstrip() + ellipsis[:width], text.style)
