"""The statistics: against published values, and against what they promise of chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.report.statistics import chi_square_tail, compare, holm, median_interval, wilson

_ALPHA = 0.05


def _grid(n_blocks: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (groups, blocks) of a full grid."""
    return np.tile(np.arange(k), n_blocks), np.repeat(np.arange(n_blocks), k)


@pytest.mark.parametrize(
    ("x", "df", "p"),
    [
        (3.841458820694124, 1, 0.05),
        (5.991464547107979, 2, 0.05),
        (7.814727903251179, 3, 0.05),
        (18.307038053275146, 10, 0.05),
        (124.34211340400407, 100, 0.05),
        (6.634896601021214, 1, 0.01),
        (0.0, 4, 1.0),
    ],
)
def test_chi_square_is_as_in_the_tables(x: float, df: int, p: float) -> None:
    """The tail at the tables' critical values is what they are the critical values of."""
    assert chi_square_tail(x, df) == pytest.approx(p, rel=1e-9)


def test_chi_square_of_very_many_degrees_ends() -> None:
    """An axis of thousands of values overflows nothing."""
    assert 0.3 < chi_square_tail(9_999.0, 9_999) < 0.7
    assert chi_square_tail(1e7, 9_999) == pytest.approx(0.0, abs=1e-12)


def test_wilson_is_as_published() -> None:
    """Newcombe (1998) gives these for 81 of 263, 15 of 148, 0 of 20 and 1 of 29."""
    for hits, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        found = wilson(hits, n)
        assert found is not None
        assert found == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 0) is None


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_holds_its_share(hits: int, more: int) -> None:
    """The interval lies within 0 and 1 and holds the share that was seen."""
    n = hits + more
    found = wilson(hits, n)
    assert found is not None
    assert 0 <= found.low <= hits / n <= found.high <= 1


@pytest.mark.parametrize("n", [8, 25, 200])
def test_the_median_s_interval_holds_it_as_often_as_it_says(n: int) -> None:
    """Of two thousand samples the interval holds the true median in some 95 %, whatever the shape."""
    samples = np.sort(np.random.default_rng(n).lognormal(0, 1, (2000, n)), axis=1)
    intervals = [median_interval(sample) for sample in samples]
    held = np.mean([found.low <= 1 <= found.high for found in intervals if found is not None])
    assert 0.94 <= held <= 0.997
    assert median_interval(samples[0, :5]) is None


def test_holm_is_as_published() -> None:
    """Holm's own steps: the least p times their number, the next times one less, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_cochran_s_q_and_kruskal_wallis_are_themselves() -> None:
    """The one statistic gives Cochran's Q of his formula, and Kruskal and Wallis' H with its correction for ties."""
    dice = np.random.default_rng(4)
    groups, blocks = _grid(200, 4)
    yes = (dice.random(800) < 0.2 + 0.05 * groups).astype(np.float64)
    table = yes.reshape(200, 4)
    columns, rows = table.sum(axis=0), table.sum(axis=1)
    q = 3 * (4 * (columns**2).sum() - yes.sum() ** 2) / (4 * yes.sum() - (rows**2).sum())
    found = compare(yes, groups, blocks, 4, is_share=True)
    assert found is not None
    assert found.method == "cochran"
    assert found.statistic == pytest.approx(q)
    assert found.p == pytest.approx(chi_square_tail(q, 3), abs=0.02)
    times = np.round(dice.lognormal(0, 1, 800), 1)
    groups = dice.integers(0, 3, 800)
    ranks = np.array([(times < time).sum() + ((times == time).sum() + 1) / 2 for time in times])
    h = sum(ranks[groups == g].sum() ** 2 / (groups == g).sum() for g in range(3)) * 12 / (800 * 801) - 3 * 801
    _, ties = np.unique(times, return_counts=True)
    h /= 1 - (ties**3 - ties).sum() / (800**3 - 800)
    found = compare(times, groups, np.arange(800), 3, is_share=False)
    assert found is not None
    assert found.method == "kruskal-wallis"
    assert found.statistic == pytest.approx(h)
    assert found.p == pytest.approx(chi_square_tail(h, 2))


@pytest.mark.parametrize(
    ("blocks_of", "k", "is_binary"),
    [(8, 3, False), (30, 5, False), (60, 5, False), (400, 4, False), (40, 3, True), (1500, 4, True)],
)
def test_nothing_is_found_where_nothing_is(blocks_of: int, k: int, is_binary: bool) -> None:
    """With prompts that differ wildly and an axis that does nothing, p is below 5 % about as often as that."""
    groups, blocks = _grid(blocks_of, k)
    dice = np.random.default_rng(1)
    n_runs = 200
    alarms = 0
    for _ in range(n_runs):
        prompts = np.repeat(dice.normal(0, 3, blocks_of), k)
        values = np.exp(prompts + dice.normal(0, 1, len(groups)) + 6)
        if is_binary:
            values = (np.log(values) > 8.5).astype(np.float64)
        found = compare(values, groups, blocks, k, is_share=is_binary)
        assert found is not None
        assert found.method == ("cochran" if is_binary else "aligned-ranks")
        alarms += found.p <= _ALPHA
    assert n_runs * 0.01 <= alarms <= n_runs * 0.11  # four standard deviations about 5 %


def test_nothing_is_found_across_blocks_either() -> None:
    """Where blocks are torn and values are compared across them, false alarms stay as rare."""
    dice = np.random.default_rng(2)
    alarms = 0
    for _ in range(300):
        values = dice.lognormal(0, 1, 60)
        found = compare(values, dice.integers(0, 3, 60), np.arange(60), 3, is_share=False)
        assert found is not None
        assert found.method == "kruskal-wallis"
        alarms += found.p <= _ALPHA
    assert 4 <= alarms <= 30


def test_blocks_find_what_prompts_would_hide() -> None:
    """A tenth more shows within prompts although prompts differ tenfold, also where a third of the cells is missing."""
    groups, blocks = _grid(40, 3)
    dice = np.random.default_rng(3)
    values = np.exp(6 + np.repeat(dice.normal(0, 3, 40), 3) + 0.1 * groups + dice.normal(0, 0.1, 120))
    there = dice.random(120) < 0.67
    for some in (np.ones(120, dtype=np.bool_), there):
        blocked = compare(values[some], groups[some], blocks[some], 3, is_share=False)
        across = compare(values[some], groups[some], np.arange(some.sum()), 3, is_share=False)
        assert blocked is not None
        assert across is not None
        assert blocked.p < 0.005
        assert across.p > 0.3


def test_holes_that_hang_on_prompts_are_no_effect() -> None:
    """Where the last value was run for the slow prompts alone, it isn't slower for that."""
    dice = np.random.default_rng(5)
    groups, blocks = _grid(60, 3)
    prompts = np.repeat(np.sort(dice.normal(0, 2, 60)), 3)
    some = (groups < 2) | (blocks > 30)
    alarms = 0
    for _ in range(100):
        values = np.exp(6 + prompts + dice.normal(0, 0.3, 180))
        found = compare(values[some], groups[some], blocks[some], 3, is_share=False)
        assert found is not None
        alarms += found.p <= _ALPHA
    assert alarms <= 14


def test_too_little_tells_nothing() -> None:
    """A handful of cells gives no test at all, rather than a proof of no effect; so do more values than can be told."""
    groups, blocks = _grid(2, 2)
    assert compare(np.array([1.0, 2, 3, 4]), groups, blocks, 2, is_share=False) is None
    assert compare(np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 2, is_share=False) is None
    groups, blocks = _grid(3, 1000)
    assert compare(np.ones(3000), groups, blocks, 1000, is_share=False) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.sampled_from([0.0, 1.0, 2.5])), max_size=60))
def test_any_hole_in_the_grid_is_borne(cells: list[tuple[int, int, float]]) -> None:
    """Whatever cells are missing, the test says something between 0 and 1, or nothing."""
    once = {(group, block): value for group, block, value in cells}
    groups = np.array([group for group, _ in once], dtype=np.int64)
    blocks = np.array([block for _, block in once], dtype=np.int64)
    values = np.array(list(once.values()), dtype=np.float64)
    for is_share in (True, False):
        found = compare(values, groups, blocks, 4, is_share=is_share)
        assert found is None or 0 <= found.p <= 1
