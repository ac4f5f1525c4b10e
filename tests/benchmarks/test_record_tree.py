from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from record.tree import Needed, tree_order

PATHS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=30)


def keyed(choices: list[list[str]]) -> list[tuple[str, ...]]:
    """Each stage's key stands for the whole path up to it."""
    return [tuple("".join(path[: depth + 1]) for depth in range(len(path))) for path in choices]


@given(PATHS)
def test_rows_with_a_common_beginning_follow_each_other(choices: list[list[str]]) -> None:
    paths = keyed(choices)
    order = tree_order(paths)
    assert sorted(order) == list(range(len(paths)))
    for key in {key for path in paths for key in path}:
        places = [place for place, row in enumerate(order) if key in paths[row]]
        assert places == list(range(places[0], places[0] + len(places)))


@given(PATHS)
def test_an_artifact_is_given_up_with_the_last_row_that_needs_it(choices: list[list[str]]) -> None:
    paths = keyed(choices)
    needed = Needed(paths)
    for row, path in enumerate(paths):
        assert all(key in needed for key in path)
        later = Counter(key for other in paths[row + 1 :] for key in other)
        assert needed.done(path) == [key for key in path if not later[key]]
        assert all((key in needed) == bool(later[key]) for key in path)
