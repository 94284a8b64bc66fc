"""What people send is taken whole or not at all, found by its id, and removed when nobody needs it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.core.config import Settings
from backend.core.errors import InvalidRequest, NotFound, UploadRefused
from backend.core.ids import is_id, new_id
from backend.core.plan import Source
from backend.core.schema import Fit
from backend.media import uploads as room
from backend.media.fitting import Picture, fit_picture
from backend.media.uploads import PARTS, PREVIEWS, Upload, Uploads, shown_name

DAY = 24 * 3600.0


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(Settings(data=tmp_path / "data", upload_limit_bytes=2_000_000))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "uploads"


def send(uploads: Uploads, path: Path, piece: int = 65536) -> Upload:
    data = path.read_bytes()
    with uploads.receive(path.name) as incoming:
        for at in range(0, len(data), piece):
            incoming.write(data[at : at + piece])
        return incoming.accept()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name != PARTS)


def test_a_video(uploads: Uploads, folder: Path, make_video):
    path = make_video("my clip.mp4", 30)
    upload = send(uploads, path, piece=100)
    assert upload == Upload(upload.id, "video", 96, 64, 30, 24.0, "my clip.mp4", path.stat().st_size)
    assert is_id(upload.id)
    assert upload.source == Source(96, 64, 30, 24.0)
    assert uploads.get(upload.id) == upload
    assert uploads.file(upload.id).read_bytes() == path.read_bytes()
    assert Uploads(Settings(data=folder.parent)).get(upload.id) == upload
    assert list((folder / PARTS).iterdir()) == []


def test_a_picture_is_kept_as_our_own_png(uploads: Uploads, save, corners: Picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera with a serial number"
    path = save("phone.jpg", corners, exif=exif, quality=100, subsampling=0)
    path.write_bytes(path.read_bytes() + b"<script>hidden</script>")
    upload = send(uploads, path)
    assert (upload.kind, upload.width, upload.height) == ("image", 48, 80)
    kept = uploads.file(upload.id)
    assert b"script" not in kept.read_bytes()
    with Image.open(kept) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (48, 80))
        assert not image.getexif()
        assert not image.info
        assert np.abs(np.asarray(image).astype(int) - np.rot90(corners, -1)).max() < 8


def test_what_is_done_to_it_is_kept_with_it(uploads: Uploads, folder: Path, save):
    upload = send(uploads, save("logo.png", Image.new("RGBA", (64, 64), (9, 9, 9, 0))))
    assert upload.notes == ("Its transparent parts are shown on white.",)
    assert uploads.get(upload.id) == upload


def test_an_upload_of_before_there_were_notes(uploads: Uploads, folder: Path, save, corners: Picture):
    upload = send(uploads, save("a.png", corners))
    record = folder / upload.id / "upload.json"
    fields = json.loads(record.read_text())
    del fields["notes"]
    record.write_text(json.dumps(fields))
    assert uploads.get(upload.id) == upload


def test_a_colour_profile_is_applied_once(uploads: Uploads, save, corners: Picture, turning_profile: bytes):
    upload = send(uploads, save("wide.png", corners, icc_profile=turning_profile))
    with Image.open(uploads.file(upload.id)) as image:
        assert "icc_profile" not in image.info
        assert np.abs(np.asarray(image).astype(int) - corners[..., [2, 0, 1]]).max() < 12


def test_a_refused_file_leaves_nothing(uploads: Uploads, folder: Path, tmp_path: Path):
    path = tmp_path / "holiday.mp4"
    path.write_text("not a film")
    with pytest.raises(UploadRefused, match=r"^holiday\.mp4 is neither") as refusal:
        send(uploads, path)
    assert str(tmp_path) not in str(refusal.value)
    assert leftovers(folder) == []


def test_nothing_sent_is_refused(uploads: Uploads, folder: Path):
    with uploads.receive("empty.png") as incoming, pytest.raises(UploadRefused, match=r"empty\.png is empty"):
        incoming.accept()
    assert leftovers(folder) == []


def test_too_much_is_refused_while_it_comes(uploads: Uploads, folder: Path):
    with uploads.receive("big.mp4") as incoming:
        incoming.write(bytes(1_500_000))
        assert leftovers(folder) != []
        with pytest.raises(UploadRefused, match=r"big\.mp4 is larger than 1\.90735 MiB"):
            incoming.write(bytes(500_001))
        assert leftovers(folder) == []


def test_an_upload_that_breaks_off_leaves_nothing(uploads: Uploads, folder: Path):
    with uploads.receive("half.mp4") as incoming:
        incoming.write(bytes(1000))
        assert leftovers(folder) != []
    assert leftovers(folder) == []


def test_a_picture_that_cannot_be_kept_leaves_nothing(uploads: Uploads, folder: Path, save, photo, monkeypatch):
    def refuse(*arguments: object, **options: object) -> bytes:
        raise UploadRefused("photo.png takes too long to decode;")

    monkeypatch.setattr(room.guard, "decode", refuse)
    with pytest.raises(UploadRefused):
        send(uploads, save("photo.png", photo))
    assert leftovers(folder) == []


@pytest.mark.parametrize("bad", ["", "..", PARTS, "../outputs", "a" * 20, "A" * 20, "a" * 19 + "/", "\0" * 20])
def test_ids_that_are_none(uploads: Uploads, make_video, bad: str):
    send(uploads, make_video())
    for ask in (uploads.get, uploads.file, lambda name: uploads.preview(name, 64, 64, Fit.CROP)):
        with pytest.raises(NotFound, match="send it again"):
            ask(bad)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\cat.png", "cat.png"),
        ("a\r\nb\x00.png", "ab.png"),
        ("gnp\u202e.exe", "gnp.exe"),
        ("Müller 猫 🐈.mp4", "Müller 猫 🐈.mp4"),
        ("x" * 500 + ".mp4", "x" * 100),
        ("", "upload"),
        ("///", "upload"),
        ("\u200b \t", "upload"),
    ],
)
def test_the_shown_name(sent: str, shown: str):
    assert shown_name(sent) == shown


def test_the_preview_of_a_picture_is_what_the_model_sees(uploads: Uploads, save, photo: Picture):
    upload = send(uploads, save("photo.png", photo))
    path = uploads.preview(upload.id, 320, 180, Fit.LETTERBOX)
    with Image.open(path) as image:
        assert (image.format, image.size) == ("JPEG", (320, 180))
        shown = np.asarray(image).astype(int)
    assert np.abs(shown - fit_picture(photo, 320, 180, Fit.LETTERBOX)).mean() < 6
    assert uploads.preview(upload.id, 320, 180, Fit.CROP) != path


def test_the_preview_shows_the_part_that_is_kept(uploads: Uploads, save, photo: Picture):
    upload = send(uploads, save("photo.png", photo))
    for position in (0.0, 0.5, 1.0):
        with Image.open(uploads.preview(upload.id, 320, 180, Fit.CROP, position)) as image:
            shown = np.asarray(image).astype(int)
        assert np.abs(shown - fit_picture(photo, 320, 180, Fit.CROP, position)).mean() < 6


def test_the_preview_of_a_video_is_its_last_frame(uploads: Uploads, make_video, number_of):
    upload = send(uploads, make_video("a.mkv", 77, rate=25))
    with Image.open(uploads.preview(upload.id, 192, 128, Fit.CROP)) as image:
        assert number_of(np.asarray(image)) == 76


def test_only_the_latest_previews_are_kept(uploads: Uploads, save, photo: Picture):
    upload = send(uploads, save("photo.png", photo))
    paths = [uploads.preview(upload.id, 64 + 8 * n, 64, Fit.CROP) for n in range(PREVIEWS + 5)]
    assert [path.exists() for path in paths] == [False] * 5 + [True] * PREVIEWS


def test_a_preview_is_made_once(uploads: Uploads, save, photo: Picture, monkeypatch):
    upload = send(uploads, save("photo.png", photo))
    path = uploads.preview(upload.id, 64, 64, Fit.CROP)
    monkeypatch.setattr(room, "read_image", None)
    assert uploads.preview(upload.id, 64, 64, Fit.CROP) == path
    assert sorted(p.name for p in path.parent.iterdir()) == ["media", "preview-64x64-crop-0.500.jpg", "upload.json"]


@pytest.mark.parametrize("size", [(0, 64), (64, -1), (64, 100_000)])
def test_a_preview_of_impossible_size(uploads: Uploads, save, photo: Picture, size: tuple[int, int]):
    upload = send(uploads, save("photo.png", photo))
    with pytest.raises(InvalidRequest, match="no size of a video; both sides go from 64 to 1920"):
        uploads.preview(upload.id, *size, Fit.CROP)


# --- cleaning up ---


def age(folder: Path, seconds: float) -> None:
    for path in [folder, *folder.iterdir()]:
        stamp = path.stat().st_mtime - seconds
        os.utime(path, (stamp, stamp))


@pytest.fixture
def three(uploads: Uploads, folder: Path, save, corners: Picture) -> dict[str, str]:
    """An old upload, one that is old but needed, one of today; their ids."""
    path = save("a.png", corners)
    ids = {name: send(uploads, path).id for name in ("old", "needed", "new")}
    age(folder / ids["old"], 2 * DAY)
    age(folder / ids["needed"], 2 * DAY)
    return ids


def now_of(folder: Path, upload_id: str) -> float:
    return (folder / upload_id / "upload.json").stat().st_mtime + 60


def test_sweeping(uploads: Uploads, folder: Path, three: dict[str, str]):
    assert uploads.sweep({three["needed"]}, DAY, now_of(folder, three["new"])) == [three["old"]]
    assert sorted(path.name for path in folder.iterdir()) == sorted([PARTS, three["needed"], three["new"]])
    with pytest.raises(NotFound):
        uploads.get(three["old"])


def test_looking_at_a_preview_does_not_make_an_upload_young(uploads: Uploads, folder: Path, three: dict[str, str]):
    uploads.preview(three["old"], 64, 64, Fit.CROP)
    assert three["old"] in uploads.sweep(set(), DAY, now_of(folder, three["new"]))


def test_sweeping_touches_nothing_that_is_not_an_upload(uploads: Uploads, folder: Path, three, tmp_path: Path):
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "film.mp4").write_text("!")
    links = [folder / new_id(), folder / PARTS / new_id()]
    for link in links:
        link.symlink_to(outside)
    (folder / three["old"] / "link").symlink_to(outside)
    (folder / "holiday").mkdir()
    (folder / "notes.txt").write_text("!")
    assert sorted(uploads.sweep(set(), -1, now=4e9)) == sorted(three.values())
    assert all(link.is_symlink() for link in links)
    with pytest.raises(NotFound):
        uploads.file(links[0].name)
    assert (outside / "film.mp4").exists()
    assert (folder / "holiday").exists()
    assert (folder / "notes.txt").exists()
    assert not (folder / three["old"]).exists()


def test_stale_parts_are_removed_and_growing_ones_are_not(uploads: Uploads, folder: Path):
    stale, growing = uploads.receive("a.mp4"), uploads.receive("b.mp4")
    for incoming in (stale, growing):
        incoming.write(b"x" * 100_000)
    stale_folder, growing_folder = sorted((folder / PARTS).iterdir())
    age(stale_folder, 2 * 3600)
    now = growing_folder.stat().st_mtime + 60
    uploads.sweep(set(), DAY, now)
    assert [path.name for path in (folder / PARTS).iterdir()] == [growing_folder.name]
    stale.discard()
    growing.discard()


def test_sweeping_before_anything_was_sent(uploads: Uploads):
    assert uploads.sweep(set(), 0, now=4e9) == []
