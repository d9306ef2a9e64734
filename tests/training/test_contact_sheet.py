"""Sheets of images, read back as pixels."""

import numpy as np
import pytest
from matplotlib.image import imread

from rnn_jax.training.contact_sheet import contact_sheet, image_table


def share_of(sheet, colour):
    return (np.abs(sheet[..., :3] - np.array(colour)) < 0.02).all(axis=-1).mean()


def test_a_contact_sheet_shows_every_image_and_marks_the_wrong_ones(tmp_path):
    images = np.zeros((5, 6, 6, 3), np.uint8)
    images[:3, ..., 2] = 255
    images[3:, ..., 1] = 255
    path = tmp_path / "sheet.png"
    captions = [f"picture {number}" for number in range(5)]
    contact_sheet(images, captions, path, title="pictures", columns=3)
    sheet = imread(path)
    blue, green = share_of(sheet, (0, 0, 1)), share_of(sheet, (0, 1, 0))
    assert blue > 0.2
    assert 1.4 < blue / green < 1.6
    red = (0.839, 0.153, 0.157)
    assert share_of(sheet, red) == 0
    contact_sheet(images, captions, path, title="pictures", columns=3, wrong=[True] + [False] * 4)
    assert share_of(imread(path), red) > 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_number_of_channels_are_drawn(channels, tmp_path):
    images = np.full((2, 4, 4, channels), 255, np.uint8)
    contact_sheet(images, ["", "$_$"], tmp_path / "sheet.png", title="$")
    assert imread(tmp_path / "sheet.png").ndim == 3


def test_an_image_table_has_its_rows_and_columns(tmp_path):
    images = np.zeros((2, 3, 4, 4))
    images[1, 2] = 1
    image_table(images, tmp_path / "table.png", title="table", rows=["a", "b"], columns=["x", "y", "z"])
    dark = np.argwhere(imread(tmp_path / "table.png")[..., 0] < 0.02)
    height, width = imread(tmp_path / "table.png").shape[:2]
    # The one dark image lies at the lower right; letters are few and small.
    middle = np.median(dark, axis=0)
    assert middle[0] > 0.6 * height
    assert middle[1] > 0.6 * width


def test_grey_images_are_dark_where_their_numbers_are_low_and_levels_of_ink_where_they_are_high(tmp_path):
    level = np.full((1, 8, 8), 40, np.uint8)
    level[:, :4] = 200
    for images, darker in ((level[..., None], slice(4, 8)), (level, slice(0, 4))):
        contact_sheet(images, [""], tmp_path / "sheet.png", title="", columns=1)
        sheet = imread(tmp_path / "sheet.png")[..., 0]
        inked = np.flatnonzero((sheet < 0.9).sum(1) > 50)
        upper, lower = (np.median(rows[rows < 0.9]) for rows in np.array_split(sheet[inked], 2))
        assert (lower < upper) == (darker.start == 4)
