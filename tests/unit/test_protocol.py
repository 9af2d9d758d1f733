from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_jetstream.client.commands import DESCRIPTION, STATUS, header_block, parse_headers, publish_command

NAMES = st.text(st.characters(codec="ascii", min_codepoint=33, exclude_characters=":"), min_size=1)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n")).map(str.strip)


def test_message_without_headers_is_a_plain_publish() -> None:
    assert publish_command("a.b", b"body") == b"PUB a.b 4\r\nbody\r\n"


def test_reply_stands_behind_the_subject() -> None:
    assert publish_command("a.b", b"body", "inbox.1") == b"PUB a.b inbox.1 4\r\nbody\r\n"


def test_empty_headers_are_left_out() -> None:
    assert publish_command("a", b"", "r", {}) == b"PUB a r 0\r\n\r\n"


def test_headers_are_counted_alone_and_with_the_body() -> None:
    block = b"NATS/1.0\r\nKey: value\r\n\r\n"

    command = publish_command("a", b"body", "r", {"Key": "value"})

    assert command == b"HPUB a r %d %d\r\n%bbody\r\n" % (len(block), len(block) + 4, block)


def test_sizes_count_bytes_and_not_characters() -> None:
    command = publish_command("grüße", "日本".encode(), headers={"Kött": "🐇"})

    line, _, rest = command.partition(b"\r\n")
    name, subject, headers, total = line.split(b" ")
    assert (name, subject.decode()) == (b"HPUB", "grüße")
    assert int(total) == len(rest) - 2
    assert rest[: int(headers)] == "NATS/1.0\r\nKött: 🐇\r\n\r\n".encode()
    assert rest[int(headers) : int(total)].decode() == "日本"


def test_body_may_hold_line_breaks() -> None:
    assert publish_command("a", b"\r\nPING\r\n") == b"PUB a 8\r\n\r\nPING\r\n\r\n"


@pytest.mark.parametrize("text", ["a\r\nb", "a\nb", "a\rb", "\n", "\r", "a\r\nOther: header", "\r\n\r\n"])
def test_header_that_would_end_its_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must not hold a line break"):
        header_block({"First": "1", "Key": text})
    with pytest.raises(ValueError, match="must not hold a line break"):
        publish_command("a", b"", headers={text: "value"})


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_headers_are_read_as_they_were_written(headers: dict[str, str]) -> None:
    assert parse_headers(header_block(headers)) == headers


def test_status_is_read_with_its_description() -> None:
    assert parse_headers(b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\n\r\n") == {
        STATUS: "409",
        DESCRIPTION: "Message Size Exceeds MaxBytes",
    }


def test_status_without_a_description_has_an_empty_one() -> None:
    assert parse_headers(b"NATS/1.0 503\r\n\r\n") == {STATUS: "503", DESCRIPTION: ""}


def test_status_stands_beside_other_headers() -> None:
    headers = parse_headers(b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\n\r\n")

    assert headers == {STATUS: "408", DESCRIPTION: "Request Timeout", "Nats-Pending-Messages": "3"}


def test_version_alone_is_no_status() -> None:
    assert parse_headers(b"NATS/1.0\r\nKey: value\r\n\r\n") == {"Key": "value"}


@pytest.mark.parametrize("block", [b"", b"\r\n", b"NATS/1.0", b"NATS/1.0\r\n\r\n"])
def test_empty_block_has_no_headers(block: bytes) -> None:
    assert parse_headers(block) == {}


def test_value_may_hold_colons_and_be_empty() -> None:
    assert parse_headers(b"NATS/1.0\r\nAt: 12:30:00\r\nNothing:\r\nTight:x\r\n\r\n") == {
        "At": "12:30:00",
        "Nothing": "",
        "Tight": "x",
    }


def test_line_without_a_colon_is_passed_over() -> None:
    assert parse_headers(b"NATS/1.0\r\nnonsense\r\nKey: value\r\n\r\n") == {"Key": "value"}


def test_bytes_that_are_no_text_are_replaced() -> None:
    headers = parse_headers(b"NATS/1.0 50\xff3 \xc3\r\nK\xfey: v\xffl\r\n\r\n")

    assert headers == {STATUS: "50\ufffd3", DESCRIPTION: "\ufffd", "K\ufffdy": "v\ufffdl"}


@given(st.binary())
def test_any_bytes_are_read_without_an_error(block: bytes) -> None:
    parse_headers(block)
