"""A video joined from segments, in a real Chromium: it plays through and can be sought to every frame."""

import base64

import numpy as np
import pytest

from backend.media.writer import join_segments, write_segment
from tests.media.conftest import numbered
from tests.studio import BROWSER_TIMEOUT_MS

pytestmark = pytest.mark.browser

FPS = 24
LENGTHS = (17, 1, 2, 3, 40)
SEEK = """(video, time) => new Promise(resolve => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    video.onseeked = () => {
        const pen = canvas.getContext("2d");
        pen.drawImage(video, 0, 0);
        const middle = pen.getImageData(0, canvas.height / 2, canvas.width, 1).data;
        resolve(Array.from({length: 8}, (_, bit) => middle[4 * Math.round((bit + 0.5) * canvas.width / 8)])
            .reduce((number, value, bit) => number + (value > 128 ? 1 << bit : 0), 0));
    };
    video.currentTime = time;
})"""


@pytest.fixture
def video(browser, tmp_path):
    """A <video> element with a file whose frames show their numbers."""
    segments, drawn = [], 0
    for length in LENGTHS:
        segments.append(tmp_path / f"{drawn}.mp4")
        frames = np.stack([numbered(number, 256, 144) for number in range(drawn, drawn + length)])
        write_segment(segments[-1], [frames], fps=FPS, width=256, height=144)
        drawn += length
    file = tmp_path / "joined.mp4"
    join_segments(file, segments, recipe={}, title="Numbers")
    tab = browser.new_page()
    tab.set_default_timeout(BROWSER_TIMEOUT_MS)
    data = base64.b64encode(file.read_bytes()).decode()
    tab.set_content(f'<video muted src="data:video/mp4;base64,{data}"></video>')
    video = tab.query_selector("video")
    tab.wait_for_function("v => v.readyState >= 2 && !v.error", arg=video)
    yield video
    tab.close()


def test_seeking_a_joined_video_shows_the_right_frame(video):
    assert video.evaluate("v => v.duration") == pytest.approx(sum(LENGTHS) / FPS, abs=1e-3)
    for number in (16, 17, 18, 20, 23, 62, 40, 0):
        assert video.evaluate(f"(v) => ({SEEK})(v, {(number + 0.5) / FPS})") == number


def test_a_joined_video_plays_to_its_end(video):
    video.evaluate("v => { v.playbackRate = 2; return v.play(); }")
    video.owner_frame().wait_for_function("v => v.ended && !v.error", arg=video)
    assert video.evaluate("v => v.currentTime") == pytest.approx(sum(LENGTHS) / FPS, abs=0.05)
