from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dramatiq_jetstream.names import MAX_TOKEN, Names, covers, escape

#: Valid as a token of a subject, in a stream's or a consumer's name, and in a KV key.
TOKEN = re.compile(r"[A-Za-z0-9_=-]+")

#: What the clients take for a bucket's name.
BUCKET = re.compile(r"[A-Za-z0-9_-]+")

#: The longest name of a stream, in bytes.
MAX_STREAM = 255

#: Any text at all, or one of few characters that mean something to the escaping, so that names are often alike.
NAMES = st.text(st.characters(), min_size=1, max_size=300) | st.text("a_-=.KV4B5F", min_size=1, max_size=6)

SHORT = st.text("ab_-.=", min_size=1, max_size=4)


@given(NAMES)
@example("a.b*c>d e/f\\g\r\nh")
@example("naïve 图像 🦆")
@example("\ud800")
@example("x" * 300)
@example("_" * 300)
@example("é" * 300)
def test_escaped_name_is_one_valid_token(name: str) -> None:
    token = escape(name)

    assert TOKEN.fullmatch(token)
    assert len(token) <= MAX_TOKEN


@given(NAMES, NAMES)
@example("a.b", "a=2Eb")
@example("=", "=3D")
@example("\U0001f986", "\ud83e\udd86")
@example("x" * 300, "x" * 301)
@example("." * 100, "." * 101)
def test_two_names_never_share_a_token(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


def test_token_of_a_long_name_is_not_the_token_of_any_other_name() -> None:
    token = escape("x" * 300)

    assert len(token) == MAX_TOKEN
    assert escape(token) != token


@pytest.mark.parametrize("name", ["default", "image-work", "to_blackandwhite", "Q1", "x" * MAX_TOKEN])
def test_ordinary_names_stay_readable(name: str) -> None:
    assert escape(name) == name


def test_special_characters_become_their_bytes() -> None:
    assert escape("images.bw é") == "images=2Ebw=20=C3=A9"


def test_empty_names_are_refused() -> None:
    with pytest.raises(ValueError, match="name must not be empty"):
        escape("")
    with pytest.raises(ValueError, match="namespace must not be empty"):
        Names("")


@given(NAMES, NAMES)
@example("_" * 300, "_" * 300)
@example("KV", "results")
@example("OBJ", "x")
@example("$JS", "API")
def test_every_name_of_a_namespace_is_valid(namespace: str, queue: str) -> None:
    names = Names(namespace)

    for name in (names.stream(queue), names.dead_letters, names.advisories, names.consumer):
        assert TOKEN.fullmatch(name)
        assert len(name) <= MAX_STREAM
    assert BUCKET.fullmatch(names.bucket("attempts"))


@given(NAMES, NAMES, NAMES)
def test_subjects_have_a_fixed_number_of_valid_tokens(namespace: str, queue: str, name: str) -> None:
    names = Names(namespace)

    for subject, length in (
        (names.work_subject(queue, name), 4),
        (names.delayed_subject(queue, name, name), 5),
        (names.dead_subject(queue, name), 4),
    ):
        tokens = subject.split(".")
        assert len(tokens) == length
        assert all(TOKEN.fullmatch(token) for token in tokens)
        assert not subject.startswith(("$", "_"))


@given(st.tuples(SHORT, SHORT), st.tuples(SHORT, SHORT))
@example(("a_b", "c"), ("a", "b_c"))
@example(("a", "_b"), ("a_", "b"))
@example(("a=5Fb", "c"), ("a_b", "c"))
def test_streams_are_shared_by_nobody(one: tuple[str, str], other: tuple[str, str]) -> None:
    (namespace, queue), (other_namespace, other_queue) = one, other

    same = Names(namespace).stream(queue) == Names(other_namespace).stream(other_queue)

    assert same == (one == other)


@given(SHORT, SHORT, SHORT)
@example("a", "b", "dead-letters")
@example("a", "a-dead", "letters")
@example("KV", "a", "a-attempts")
@example("a.b", "a_b", "attempts")
def test_namespaces_share_no_stream(namespace: str, other: str, queue: str) -> None:
    assume(namespace != other)

    assert streams(Names(namespace), queue).isdisjoint(streams(Names(other), queue))


@given(SHORT, SHORT)
@example("KV", "a-attempts")
@example("OBJ", "x")
@example("a", "dead-letters")
def test_a_queue_shares_no_stream_with_the_helpers_of_its_namespace(namespace: str, queue: str) -> None:
    assert len(streams(Names(namespace), queue)) == 4
    assert not Names(namespace).stream(queue).startswith(("KV_", "OBJ_"))


def streams(names: Names, queue: str) -> set[str]:
    return {names.stream(queue), names.dead_letters, names.advisories, f"KV_{names.bucket('attempts')}"}


Subject = Callable[[Names, str, str], str]
SUBJECTS: dict[str, Subject] = {
    "work": lambda names, queue, name: names.work_subject(queue, name),
    "delayed": lambda names, queue, name: names.delayed_subject(queue, name, "nonce"),
    "dead": lambda names, queue, name: names.dead_subject(queue, name),
}
PATTERNS: dict[str, Callable[[Names, str], str]] = {
    "work": lambda names, queue: names.work_subject(queue),
    "delayed": lambda names, queue: names.delayed_subject(queue),
    "dead": lambda names, queue: names.dead_subject(queue),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", SUBJECTS)
@given(one=st.tuples(SHORT, SHORT), other=st.tuples(SHORT, SHORT), name=NAMES)
def test_a_queue_hears_its_own_messages_only(
    pattern: str, kind: str, one: tuple[str, str], other: tuple[str, str], name: str
) -> None:
    (namespace, queue), (other_namespace, other_queue) = one, other

    heard = covers(
        PATTERNS[pattern](Names(namespace), queue), SUBJECTS[kind](Names(other_namespace), other_queue, name)
    )

    assert heard == (pattern == kind and one == other)


@pytest.mark.parametrize("kind", SUBJECTS)
@given(one=st.tuples(SHORT, SHORT, SHORT), other=st.tuples(SHORT, SHORT, SHORT))
@example(one=("a", "b.c", "d"), other=("a.b", "c", "d"))
@example(one=("a", "b", "c.d"), other=("a", "b.c", "d"))
@example(one=("a_b", "c", "d"), other=("a", "b_c", "d"))
def test_each_actor_has_a_subject_of_its_own(kind: str, one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    (namespace, queue, actor), (other_namespace, other_queue, other_actor) = one, other

    subject = SUBJECTS[kind](Names(namespace), queue, actor)
    other_subject = SUBJECTS[kind](Names(other_namespace), other_queue, other_actor)

    assert (subject == other_subject) == (one == other)


def test_empty_name_from_outside_has_a_token_that_no_other_name_has() -> None:
    assert Names().work_subject("default", "") == "dramatiq.work.default.="
    assert Names().work_subject("default", "=") == "dramatiq.work.default.=3D"


def test_names_of_the_default_namespace() -> None:
    names = Names()

    assert names.stream("default") == "dramatiq_default"
    assert names.consumer == "dramatiq"
    assert names.work_subject("default") == "dramatiq.work.default.*"
    assert names.work_subject("default", "resize") == "dramatiq.work.default.resize"
    assert names.delayed_subject("default") == "dramatiq.delayed.default.*.*"
    assert names.dead_subject() == "dramatiq.dead.*.*"
    assert names.dead_letters == "dramatiq-dead-letters"
    assert names.bucket("attempts") == "dramatiq-attempts"
