"""Names and texts that are long, or try to command the terminal."""

from __future__ import annotations

#: A name of fifty characters, as a queue's and as an actor's.
LONG_QUEUE = "thumbnails-for-the-archive-of-the-year-before-last"
LONG_ACTOR = "make_thumbnails_of_every_single_page_of_a_document"

#: Control characters, escape sequences, marks of direction, wide and combining characters, markup.
HOSTILE = "a\x1b[31m\x1b]0;title\x07\x9b2J\r\n\t\x00\u202eb\u2066\u200d語é\u0301🙂👩‍👩‍👧[red]x[/]\x7f\udcff\u2028z"

#: As much of it as dramatiq takes for a queue's name, and the server for a stream's.
HOSTILE_NAME = "a\x1b[31m\u202e語e\u0301🙂[red]x[/]"
