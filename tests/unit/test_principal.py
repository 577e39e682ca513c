"""Spawn ids: form, randomness, and refusal of everything that only looks like one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_comet.ssh.principal import is_spawn_id, new_spawn_id

pytestmark = pytest.mark.unit


def test_new_ids_have_the_form_and_differ() -> None:
    ids = {new_spawn_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(is_spawn_id(spawn) for spawn in ids)


GOOD = "t-" + "abcdefghijklmnopqrstuvwx27"


def test_a_good_id_is_accepted() -> None:
    assert is_spawn_id(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("root", id="root"),
        pytest.param(GOOD[2:], id="no-prefix"),
        pytest.param(GOOD[:-1], id="short"),
        pytest.param(GOOD + "a", id="long"),
        pytest.param(GOOD.upper(), id="capitals"),
        pytest.param(GOOD[:-1] + "1", id="digit-outside-base32"),
        pytest.param(GOOD + "\n", id="newline-at-end"),
        pytest.param(GOOD[:-1] + ",", id="comma"),
        pytest.param(GOOD[:-1] + "а", id="cyrillic-twin"),
        pytest.param(" " + GOOD, id="space-before"),
    ],
)
def test_look_alikes_are_refused(text: str) -> None:
    assert not is_spawn_id(text)


@given(st.text(max_size=40))
def test_any_text_gets_an_answer(text: str) -> None:
    if is_spawn_id(text):
        assert len(text) == 28
        assert text.isascii()
