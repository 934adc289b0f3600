"""Templates: braces, words and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.findings import BadValue
from batchflux.core.template import Template, Word

_NAMES = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name == name.strip()
)
_LITERALS = st.text(max_size=8)


def test_a_template_is_parsed_into_parts() -> None:
    """Texts and words stand in order, words once each."""
    template = Template.parse("{scene}, in the style of {style}, {scene}")
    assert template.parts == (Word("scene"), ", in the style of ", Word("style"), ", ", Word("scene"))
    assert template.words == ("scene", "style")


def test_double_braces_are_braces() -> None:
    """{{ and }} are the braces themselves, also right beside a word."""
    assert Template.parse("{{{a}}} {{b}}").render({"a": "x"}) == "{x} {b}"


@pytest.mark.security(34)
@pytest.mark.parametrize("name", ["a.__class__", "a[0]", "0", "a!r", "a:>10", "ein Wort", "日本"])
def test_a_word_is_a_name_and_nothing_more(name: str) -> None:
    """What str.format would run is only the name of a column here."""
    template = Template.parse("{" + name + "}")
    assert template.words == (name,)
    assert template.render({name: "x"}) == "x"


def test_what_a_row_says_is_not_read_again() -> None:
    """Braces in a row's text stay that text."""
    assert Template.parse("{a}-{b}").render({"a": "{b}", "b": "{{"}) == "{b}-{{"


@pytest.mark.parametrize(
    ("text", "what", "instead"),
    [
        ("a {b", "column 3: '{' without '}'", "write {{ for the brace itself"),
        ("a b}", "column 4: '}' without '{'", "write }} for the brace itself"),
        ("{a{b}", "column 1: '{' without '}'", "write {{ for the brace itself"),
        ("ab {}", "column 4: {} names nothing", "write {name}, or {{}} for the braces themselves"),
        ("ab { c }", "column 4: spaces inside '{ c }'", "write {c}"),
        (" ", "the template is empty", 'write one with a column in it, for example "{scene}, at night"'),
    ],
)
def test_a_wrong_brace_is_named_with_its_column(text: str, what: str, instead: str) -> None:
    """Each fault says where it stands and what to write."""
    with pytest.raises(BadValue) as caught:
        Template.parse(text)
    assert (caught.value.what, caught.value.instead) == (what, instead)


def test_a_missing_word_is_a_key_error() -> None:
    """A word that nothing fills is never left out in silence."""
    with pytest.raises(KeyError):
        Template.parse("{a}").render({})


@given(st.lists(st.tuples(_LITERALS, _NAMES), max_size=5), _LITERALS, st.text(max_size=5))
def test_any_template_renders_to_its_parts(parts: list[tuple[str, str]], tail: str, fill: str) -> None:
    """Literals with their braces doubled and words of any name come out as they went in."""
    text = "".join(_escaped(literal) + "{" + name + "}" for literal, name in parts) + _escaped(tail)
    if not text.strip():
        return
    words = {name: f"{fill}{place}" for place, (_, name) in enumerate(parts)}
    expected = "".join(literal + words[name] for literal, name in parts) + tail
    assert Template.parse(text).render(words) == expected


@given(st.text(st.sampled_from("{}ab "), max_size=12))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text makes the parser fail in another way than by its own refusal."""
    try:
        template = Template.parse(text)
    except BadValue:
        return
    assert template.render(dict.fromkeys(template.words, "")).count("{") == text.count("{{")


def _escaped(literal: str) -> str:
    return literal.replace("{", "{{").replace("}", "}}")
