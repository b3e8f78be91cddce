"""The bars of the picture: whole numbers of tokens, and not squeezed by a few very long examples."""

import numpy as np

from trl_ext.inspection import picture


def test_a_few_very_long_examples_do_not_squeeze_the_others():
    tokens = np.array([*np.random.default_rng(0).integers(5, 20, 236), 28_000, 30_000, 100_002])
    edges = picture.bins(tokens)
    assert edges[-1] < 1.6 * 19 + 1 and np.allclose(np.diff(edges), 1)
    assert np.histogram(tokens, edges)[0].sum() == 236


def test_without_outliers_everything_is_shown():
    for longest in (1, 59, 60, 61, 4000):
        tokens = np.arange(longest + 1)
        edges = picture.bins(tokens)
        width = edges[1] - edges[0]
        assert np.histogram(tokens, edges)[0].sum() == longest + 1 and len(edges) <= picture.BINS + 2
        assert width == int(width) and edges[0] == -0.5


def test_no_two_bars_share_a_place():
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    tokens, is_dropped = np.array([3, 3, 3, 4, 7]), np.array([False, True, False, False, True])
    picture._histogram(axis, tokens, is_dropped, picture.bins(tokens), "red")
    heights = {}
    for bar in axis.patches:
        left, right = bar.get_x(), bar.get_x() + bar.get_width()
        assert round(left) == round(right) or right - left < 1
        if bar.get_height():
            place = round((left + right) / 2)
            assert bar.get_y() == heights.get(place, 0)  # one on top of the other
            heights[place] = bar.get_y() + bar.get_height()
    assert heights == {3: 3, 4: 1, 7: 1}
