"""Tables that fit the terminal: columns are left out by priority, names are cut, sentences are wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ..logs import escaped

#: The cells between two columns.
GAP = 2

#: How far a name is cut before a column is left out, and how far if there is none left to leave out.
SHORT, SHORTEST = 16, 6

#: The width that a column of sentences needs.
SENTENCE = 30


class Listing:
    """A table without borders, laid out for the width it is printed in.

    Parameters:
      headers(Sequence): The columns' names.
      rows(Iterable): Their values.
      right(Sequence): The columns that are aligned to the right; they are never cut.
      drop(Sequence): The columns to leave out where there is no room, the least important first.
      wrap(str): The column that is wrapped and not cut, if any.
    """

    def __init__(
        self,
        headers: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        right: Sequence[str] = (),
        drop: Sequence[str] = (),
        wrap: str | None = None,
    ) -> None:
        self.headers = list(headers)
        self.rows = [[_cell(value) for value in row] for row in rows]
        self.right, self.drop, self.wrap = right, drop, wrap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ellipsis = "…" if _encoded("…", console.encoding) == "…" else "..."
        rows = [[_encodable(cell, console.encoding) for cell in row] for row in self.rows]
        widths = self._fit([self._natural(column, rows) for column in range(len(self.headers))], options.max_width)
        made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        shown = [column for column, width in enumerate(widths) if width]
        for column in shown:
            header = self.headers[column]
            wrapped = header == self.wrap
            made.add_column(
                Text(_shortened(Text(header), widths[column], ellipsis).plain),
                justify="right" if header in self.right else "left",
                width=widths[column],
                no_wrap=not wrapped,
                overflow="fold" if wrapped else "crop",
            )
        for row in rows:
            made.add_row(
                *(
                    row[column]
                    if self.headers[column] == self.wrap
                    else _shortened(row[column], widths[column], ellipsis)
                    for column in shown
                )
            )
        yield made

    def _natural(self, column: int, rows: Sequence[Sequence[Text]]) -> int:
        return max(cell_len(self.headers[column]), *(cell_len(row[column].plain) for row in rows), 1)

    def _fit(self, widths: list[int], room: int) -> list[int]:
        """The columns' widths in so many cells; 0 for those that are left out."""
        widths = self._cut(widths, room, SHORT)
        for name in self.drop:
            if _taken(widths) <= room:
                break
            if name in self.headers:
                widths[self.headers.index(name)] = 0
        return self._cut(widths, room, SHORTEST)

    def _cut(self, widths: list[int], room: int, least: int) -> list[int]:
        widths = list(widths)
        while (excess := _taken(widths) - room) > 0:
            limits = {
                column: SENTENCE if header == self.wrap else least
                for column, header in enumerate(self.headers)
                if header not in self.right
            }
            able = [column for column, limit in limits.items() if widths[column] > limit]
            if not able:
                break
            widest = max(able, key=lambda column: widths[column])
            others = [widths[column] for column in able if widths[column] < widths[widest]]
            floor = max([*others, limits[widest]])
            widths[widest] = max(widths[widest] - excess, min(floor, widths[widest] - 1))
        return widths


def printable(value: object) -> str:
    """Text in which every control character is shown instead of obeyed."""
    return escaped("" if value is None else str(value), keep="\n\t")


def _taken(widths: Sequence[int]) -> int:
    shown = [width for width in widths if width]
    return sum(shown) + GAP * max(len(shown) - 1, 0)


def _cell(value: object) -> Text:
    return value if isinstance(value, Text) else Text(printable(value).replace("\n", " ").replace("\t", " "))


def _encoded(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _encodable(text: Text, encoding: str) -> Text:
    plain = _encoded(text.plain, encoding)
    return text if plain == text.plain else Text(plain, text.style)


def _shortened(text: Text, width: int, ellipsis: str) -> Text:
    if cell_len(text.plain) <= width:
        return text
    return Text(set_cell_size(text.plain, max(width - len(ellipsis), 0)) + ellipsis[:width], text.style)
