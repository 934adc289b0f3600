"""The short texts of the options: which splits and sizes there are, and on which side a prompt stands for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.errors import UsageError
from batchflux.export.options import ExportOptions, check_options, parse_size, parse_splits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train", "no split"),
        ("train=", "no split"),
        ("train=.", "no split"),
        ("train=0.9", "the shares are 0.9 in all, not 1"),
        ("train=0.9,test=0.2", "1.1 in all"),
        ("train=0.5,train=0.5", "said twice"),
        ("train=1,test=0", "test gets nothing"),
        ("../up=1", "no split"),
        ("a b=1", "no split"),
        ("train=-1,test=2", "no split"),
        ("", "no split"),
    ],
)
def test_what_is_no_split(text: str, words: str) -> None:
    """Shares are exact and one in all; names are safe in file names."""
    with pytest.raises(UsageError, match="--split: ") as refused:
        parse_splits(text)
    assert words in str(refused.value)


@given(st.text())
def test_a_prompt_stays_on_its_side(prompt: str) -> None:
    """The side is a pure function of the text, and a larger first share takes nobody away from it."""
    smaller, larger = parse_splits("a=0.3,b=.7"), parse_splits("a=0.33333,b=0.66667")
    assert smaller.of(prompt) in ("a", "b")
    assert smaller.of(prompt) == parse_splits("a=0.3, b=0.7").of(prompt)
    assert not (smaller.of(prompt) == "a" and larger.of(prompt) == "b")


def test_sides_are_pinned_and_shared_fairly() -> None:
    """What an earlier version put on a side stays there, and 10,000 prompts are shared as asked, within a few."""
    splits = parse_splits("train=0.9,test=0.1")
    sides = [splits.of(f"a kite over hill {n}") for n in range(10_000)]
    assert [n for n in range(60) if sides[n] == "test"] == PINNED
    assert 900 < sides.count("test") < 1100


PINNED = [3, 8, 11, 45]


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("1GiB", 2**30), ("2 kb", 2000), ("7B", 7), ("1TB", 10**12)],
)
def test_sizes(text: str, size: int) -> None:
    """A size is a number and a unit, decimal or binary."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["500", "MB", "0MB", "-1MB", "1.5GB", "1iB", "5 M", ""])
def test_what_is_no_size(text: str) -> None:
    """A number without a unit could mean anything."""
    with pytest.raises(UsageError, match="--max-shard-size"):
        parse_size(text)


def test_options_fit_their_format() -> None:
    """What means nothing to a format is refused, not passed over."""
    with pytest.raises(UsageError, match="--max-shard-size is for parquet and webdataset"):
        check_options(ExportOptions(form="imagefolder", shard_bytes=9))
    for link in (True, False):
        with pytest.raises(UsageError, match="--copy and --link are for imagefolder"):
            check_options(ExportOptions(form="csv", link=link))
    check_options(ExportOptions(form="imagefolder", link=True))
    check_options(ExportOptions(form="webdataset", shard_bytes=1))
