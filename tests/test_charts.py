"""Charts and panels: they show the numbers they are given, in words too, and stand alone."""

import io
import re
import threading
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pixeltrust.pages import charts
from pixeltrust.pages.charts import draw_dice_strips, draw_differences, draw_heat_legend, draw_training_curves
from pixeltrust.pages.pictures import MOST, OUTLINES, PANEL_PIXELS, draw_heat, draw_overlay

UPDATES = {"update": [10, 20]}
PLAIN = pd.DataFrame(UPDATES | {"loss": [0.7, 0.25], "val_dice": [0.4, 0.5], "zero_share": np.nan, "effective_pixels": np.nan})
PIXEL = pd.DataFrame(
    {"update": [10, 20], "loss": [0.6, 0.125], "val_dice": [0.5, 0.75], "zero_share": [0.5, 0.3], "effective_pixels": [9, 1200]}
)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def texts(chart):
    return ["".join(node.itertext()) for node in ET.fromstring(chart.svg).iter() if node.tag.endswith("}text")]


def square(size=64, low=16, high=48):
    mask = np.zeros((size, size), dtype=bool)
    mask[low:high, low:high] = True
    return mask


def test_a_chart_is_drawn_for_each_quantity_that_a_run_has():
    assert [chart.title.split()[0] for chart in draw_training_curves({"plain": PLAIN})] == ["Loss", "Dice"]
    assert len(draw_training_curves({"plain": PLAIN, "pixel": PIXEL})) == 4


def test_curves_name_their_runs_and_say_their_numbers():
    loss, _, zero, _ = draw_training_curves({"plain": PLAIN, "pixel": PIXEL})
    assert {"plain", "pixel", "updates"} <= set(texts(loss))
    assert "plain: 0.7 at first, 0.25 at last" in loss.text
    assert "plain" not in texts(zero)


def test_a_run_of_one_epoch_has_curves():
    assert len(draw_training_curves({"pixel": PIXEL[:1]})) == 4


def test_labels_of_lines_that_end_together_do_not_touch():
    chart = draw_training_curves({"plain": PLAIN, "pixel": PLAIN})[0]
    heights = [float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>(?:plain|pixel)<', chart.svg)]
    assert len(heights) == 2
    assert abs(heights[0] - heights[1]) > 9  # points, the height of a letter


def test_strips_say_means_and_leave_undefined_cases_out():
    chart = draw_dice_strips({"plain": np.array([0.5, 0.7, np.nan]), "pixel": np.array([0.8, 0.9, 1.0])})
    assert "plain: mean 0.600" in chart.text
    assert "2 cases" in chart.text
    assert "pixel: mean 0.900" in chart.text


def test_differences_count_who_was_better_and_ties_for_nobody():
    chart = draw_differences(np.array([0.2, 0.1, -0.3, 0.0, np.nan]), better="pixel", worse="plain")
    assert {"pixel better: 2", "plain better: 1"} <= set(texts(chart))
    assert chart.text == "pixel is better in 2 and plain in 1 of 4 cases"


def test_charts_follow_the_readers_colours_and_load_nothing():
    for chart in [*draw_training_curves({"pixel": PIXEL}), draw_heat_legend()]:
        assert "prefers-color-scheme: dark" in chart.svg
        assert "var(--" in chart.svg
        assert not re.search(r"(href|src)=.(?!#|data:)", chart.svg)
        assert "url(http" not in chart.svg


def test_the_same_numbers_give_the_same_picture():
    assert draw_dice_strips({"plain": np.array([0.5, 0.7])}) == draw_dice_strips({"plain": np.array([0.5, 0.7])})


def test_charts_can_be_drawn_in_a_thread_without_pyplot():
    drawn = []
    thread = threading.Thread(target=lambda: drawn.append(draw_heat_legend()))
    thread.start()
    thread.join()
    assert drawn
    assert not hasattr(charts, "pyplot")
    assert not hasattr(charts, "plt")


def test_an_overlay_draws_the_outline_and_leaves_the_rest():
    image = np.full((64, 64, 3), 100, dtype=np.uint8)
    drawn = pixels(draw_overlay(image, {"noisy": square()}))
    assert drawn.shape == (PANEL_PIXELS, PANEL_PIXELS, 3)
    assert (drawn[PANEL_PIXELS // 4] == OUTLINES["noisy"]).all(axis=-1).mean() > 0.3  # the upper edge
    assert (drawn[PANEL_PIXELS // 2, PANEL_PIXELS // 2] == 100).all()
    assert (drawn[5, 5] == 100).all()


@pytest.mark.parametrize("mask", [np.zeros((40, 60), dtype=bool), np.ones((40, 60), dtype=bool)])
def test_a_mask_without_an_outline_leaves_the_image_alone(mask):
    drawn = pixels(draw_overlay(np.full((40, 60, 3), 90, dtype=np.uint8), {"true": mask}))
    assert drawn.shape == (round(PANEL_PIXELS * 2 / 3), PANEL_PIXELS, 3)
    assert (drawn == 90).all()


def test_heat_is_brown_at_0_pale_at_the_average_and_blue_above():
    weights = np.zeros((30, 30))
    weights[:, 10:20], weights[:, 20:] = 1.0, MOST
    left, middle, right = (pixels(draw_heat(weights))[PANEL_PIXELS // 2, PANEL_PIXELS * third // 6].astype(int) for third in (1, 3, 5))
    assert left[0] > left[2] + 50
    assert middle.min() > 220
    assert right[2] > right[0] + 50


def test_heat_ends_at_its_largest_weight():
    assert draw_heat(np.full((8, 8), MOST)) == draw_heat(np.full((8, 8), 50 * MOST))


def test_heat_takes_a_mask_of_another_size():
    marked, bare = pixels(draw_heat(np.ones((32, 32)), square())), pixels(draw_heat(np.ones((32, 32))))
    assert (marked == 0).all(axis=-1).sum() > 400  # the outline of 128 x 128 px
    assert not (bare == 0).any()
