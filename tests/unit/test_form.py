"""The options form: what it shows and what comes back from it."""

import pytest

from jupyterhub_comet.form import describe_walltime, options_from_form, render_form
from jupyterhub_comet.settings import parse_settings

from .test_settings import GOOD

pytestmark = pytest.mark.unit


def test_form_offers_each_choice_with_a_label() -> None:
    html = render_form(parse_settings(GOOD))
    assert 'name="profile" value="shared" checked' in html
    for core in (1, 2, 6, 12):
        assert f'<option value="{core}"' in html
    assert "1 hour" in html
    assert "24 hours" in html
    assert html.count("<label") == 4


def test_form_escapes_what_values_hold() -> None:
    html = render_form(parse_settings(GOOD.replace("Shared node", "<b>Shared</b>")))
    assert "<b>Shared</b>" not in html
    assert "&lt;b&gt;Shared" in html


def test_only_the_chosen_profile_counts() -> None:
    data = {
        "profile": ["shared"],
        "cores:shared": ["6"],
        "walltime:shared": ["01:00:00"],
        "account:shared": [" "],
        "cores:gpu": ["12"],
    }
    assert options_from_form(data) == {"profile": "shared", "cores": 6, "walltime": "01:00:00"}


def test_what_is_no_number_is_left_for_the_check_to_name() -> None:
    data = {"profile": ["shared"], "cores:shared": ["$(id)"], "account:shared": ["$(id)"]}
    assert options_from_form(data) == {"profile": "shared", "cores": "$(id)", "account": "$(id)"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("01:00:00", "1 hour"),
        ("1-00:00:00", "24 hours"),
        ("00:30:00", "30 minutes"),
        ("01:30:00", "1 hour 30 minutes"),
    ],
)
def test_walltime_in_words(text: str, words: str) -> None:
    assert describe_walltime(text) == words
