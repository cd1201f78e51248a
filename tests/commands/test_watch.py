"""``watch``: the video shows the lap and the neurons, and a file is there whole or not at all."""

import os
import resource
import subprocess

import cv2
import numpy as np
import pytest
from PIL import Image

from liquid_control import load_driver, watch
from liquid_control.report.film import GIF_BEGIN, record_lap
from liquid_control.report.lap import Screen
from liquid_control.watch import main


def frames_of(path):
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return frames, video.get(cv2.CAP_PROP_FPS)


def test_the_video_shows_road_and_neurons_in_real_time(checkpoint, tmp_path, command):
    status, output, _ = command(main, checkpoint, "--video", tmp_path / "lap.mp4", "--max-steps", "60")
    frames, rate = frames_of(tmp_path / "lap.mp4")
    assert status == 0 and "lap not completed" in output and "60 steps" in output
    assert len(frames) / rate == pytest.approx(60 / 50)
    assert {frame.shape for frame in frames} == {(Screen.height, Screen.width, 3)}
    first, last = frames[0].astype(int), frames[-1].astype(int)
    grass = last[:400, :720].reshape(-1, 3)
    assert ((grass[:, 1] > 180) & (grass[:, 0] < 140)).mean() > 0.3
    for name, part in {"road": np.s_[:480, :720], "traces": np.s_[480:, :720], "neurons": np.s_[80:, 720:]}.items():
        assert np.abs(first[part] - last[part]).mean() > 1, f"{name} stand still"


def test_the_gif_is_small_endless_and_begins_after_the_zoom(checkpoint, tmp_path, command):
    status, _, _ = command(main, checkpoint, "--gif", tmp_path / "lap.gif", "--max-steps", str(GIF_BEGIN + 50))
    assert status == 0
    with Image.open(tmp_path / "lap.gif") as gif:
        assert (gif.n_frames, gif.info["duration"], gif.info["loop"]) == (10, 100, 0)
    # A whole GIF has at most 110 frames and must stay within 3 MB.
    assert (tmp_path / "lap.gif").stat().st_size < 3_000_000 * 10 / 110


class ThreePictures:
    """Stands in for the window, which needs a display: closed by the user after three pictures."""

    def __init__(self, title, size):
        self.size, self.pictures, self.closed = size, [], False
        ThreePictures.last = self

    def show(self, picture):
        assert picture.shape == (*self.size[::-1], 3)
        self.pictures.append(picture)
        return len(self.pictures) < 3

    def close(self):
        self.closed = True


def test_the_window_shows_laps_until_it_is_closed(checkpoint, command, monkeypatch):
    monkeypatch.setattr(watch, "Window", ThreePictures)
    status, output, _ = command(main, checkpoint, "--max-steps", "3", "--seed", "7")
    assert status == 0
    assert ThreePictures.last.closed and len(ThreePictures.last.pictures) == 3
    assert "seed 7: lap not completed" in output


def test_without_a_display_the_video_is_suggested(checkpoint, command, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    status, _, errors = command(main, checkpoint)
    assert status == 2
    assert errors.startswith("error: no window") and "--video lap.mp4" in errors and errors.count("\n") == 1


def test_a_broken_checkpoint_is_one_line_and_status_2(broken_checkpoint, command, tmp_path):
    checkpoint, message = broken_checkpoint
    status, _, errors = command(main, checkpoint, "--video", tmp_path / "lap.mp4")
    assert status == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1 and message in errors
    assert not (tmp_path / "lap.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video", "lap.avi"], "should be a .mp4 file"),
        (["--gif", "lap.png"], "should be a .gif file"),
        (["--video", "/dev/null/lap.mp4"], "cannot write /dev/null/lap.mp4"),
        (["--video", "lap.mp4", "--gif", "/dev/null/lap.gif"], "cannot write /dev/null/lap.gif"),
        (["--video", "lap.mp4", "--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--video", "lap.mp4", "--max-steps", "0"], "--max-steps must be at least 1, not 0"),
    ],
)
def test_what_is_wrong_is_said_and_the_earlier_video_stays(
    arguments, message, checkpoint, command, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lap.mp4").write_text("earlier")
    status, _, errors = command(main, checkpoint, *arguments)
    assert status == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1 and message in errors
    assert (tmp_path / "lap.mp4").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["driver", "lap.mp4"]


def test_a_lap_that_is_broken_off_leaves_the_earlier_video(checkpoint, tmp_path):
    (tmp_path / "lap.mp4").write_text("earlier")
    driver = load_driver(checkpoint)
    steps = iter(range(5))

    def act(observation, elapsed=None):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return np.zeros(3, np.float32)

    driver.act = act
    with pytest.raises(KeyboardInterrupt):
        record_lap(driver, tmp_path / "lap.mp4")
    assert (tmp_path / "lap.mp4").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["driver", "lap.mp4"]


def test_a_full_disk_is_noticed_and_leaves_the_earlier_video(checkpoint, tmp_path, python):
    (tmp_path / "lap.mp4").write_text("earlier")
    video = tmp_path / "lap.mp4"
    done = subprocess.run(
        [python, "-m", "liquid_control.watch", checkpoint, "--video", video, "--max-steps", "60"],
        capture_output=True,
        text=True,
        # A limit on the size of a file is as near as a test comes to a full disk.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2
    assert f"error: cannot write {video}" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "lap.mp4").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["driver", "lap.mp4"]
