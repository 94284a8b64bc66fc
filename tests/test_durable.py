"""Moves of files and folders, to another file system too, and whatever the process was doing when it died."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest

from backend import durable
from backend.durable import discard, finish_moves, link_file, move, move_folder


class Killed(BaseException):
    """The process died here."""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    here = tmp_path / "here"
    here.mkdir()
    return here


@pytest.fixture(params=["another file system", "one that says so"])
def there(request, tmp_path: Path, monkeypatch) -> Path:
    """A folder that nothing can be renamed into from `here`, nor back."""
    if request.param == "another file system":
        return request.getfixturevalue("other_disk")
    there = tmp_path / "there"
    there.mkdir()
    rename = Path.rename

    def refusing(path: Path, target: Path) -> Path:
        if path.parent != target.parent:  # as the lower layer of a container's file system does
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refusing)
    return there


def make_video(folder: Path) -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "video.mp4").write_bytes(b"v" * 100_000)
    (folder / "inner" / "x.json").write_text("{}")
    (folder / "link").symlink_to("/nowhere")
    os.utime(folder / "video.mp4", (1000, 1000))
    os.utime(folder, (2000, 2000))
    return folder


def is_whole(folder: Path) -> bool:
    names = {f"{path.relative_to(folder)}" for path in folder.rglob("*")}
    return (
        names == {"video.mp4", "inner", "inner/x.json", "link"} and len((folder / "video.mp4").read_bytes()) == 100_000
    )


def test_a_folder_moves_with_its_times_and_links(here, there):
    move(make_video(here / "a"), there / "a")
    assert is_whole(there / "a")
    assert ((there / "a").stat().st_mtime, (there / "a" / "video.mp4").stat().st_mtime) == (2000, 1000)
    assert (there / "a" / "link").readlink() == Path("/nowhere")
    assert (there / "a").stat().st_mode & 0o777 == 0o700
    assert (list(here.iterdir()), [path.name for path in there.iterdir()]) == ([], ["a"])


def test_a_folder_that_gets_another_name_moves_too(here, there):
    (here / "a").mkdir()
    (here / "a" / "x").write_text("x")
    move_folder(here / "a", there / "b")
    assert (list(here.iterdir()), [path.name for path in there.iterdir()]) == ([], ["b"])


def test_a_file_moves_and_replaces_an_earlier_one(here, there):
    (here / "a").write_text("new")
    (there / "a").write_text("old")
    move(here / "a", there / "a")
    assert ((there / "a").read_text(), list(here.iterdir()), len(list(there.iterdir()))) == ("new", [], 1)


@pytest.mark.parametrize("filled", [True, False])
def test_a_folder_that_is_there_is_left_as_it_is(here, there, filled):
    make_video(here / "a")
    (there / "a").mkdir()
    if filled:
        (there / "a" / "mine").write_text("!")
    with pytest.raises(OSError, match=r"exists|not empty"):
        move(here / "a", there / "a")
    assert is_whole(here / "a")
    assert [path.name for path in (there / "a").iterdir()] == ["mine"][: int(filled)]


def test_a_disk_that_fills_up_leaves_the_source_and_no_copy(here, there, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    make_video(here / "a")
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        move(here / "a", there / "a")
    assert is_whole(here / "a")
    assert list(there.iterdir()) == []


STEPS = ("sync", "_copy", "_remove")


def die_at(patch: pytest.MonkeyPatch, k: int, after: bool) -> None:
    """Have the process die at the k-th step of those that change or sync something: before it, or after it."""
    count = itertools.count(1)

    def dying(step):
        def wrapped(*arguments):
            mine = next(count) == k
            if mine and not after:
                raise Killed
            try:
                return step(*arguments)
            finally:
                if mine:
                    raise Killed

        return wrapped

    for name in STEPS:
        patch.setattr(durable, name, dying(getattr(durable, name)))
    patch.setattr(Path, "rename", dying(Path.rename))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("again", [False, True], ids=["killed once", "killed while it is finished too"])
def test_whatever_kills_it_a_video_is_never_in_both_places_and_never_lost(here, there, after, again):
    routes = [(here, there), (there, here)]
    for k in itertools.count(1):
        name = f"video{k}"
        make_video(here / name)
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, k, after)
            try:
                move(here / name, there / name)
                ended = True
            except Killed:
                ended = False
        for again_at in itertools.count(1) if again and not ended else [0]:
            assert not ((here / name).exists() and (there / name).exists())
            with pytest.MonkeyPatch.context() as patch:
                die_at(patch, again_at, after)
                try:
                    finish_moves(routes)
                    break
                except Killed:
                    continue
        found = [folder / name for folder in (here, there) if (folder / name).exists()]
        assert len(found) == 1
        assert is_whole(found[0])
        assert not [path for folder in (here, there) for path in folder.glob(".*")]
        if ended:
            break
    assert k > 8


def test_a_disk_that_is_away_gives_the_video_back(here, there):
    make_video(here / ".a.moved")
    finish_moves([(here, there / "away"), (there / "away", here)])
    assert is_whole(here / "a")


def test_a_copy_that_is_left_of_a_move_that_was_given_back_is_removed(here, there):
    make_video(here / "a")
    make_video(there / ".a.part")
    finish_moves([(here, there), (there, here)])
    assert is_whole(here / "a")
    assert list(there.iterdir()) == []


def test_a_disk_that_refuses_does_not_stop_the_start(here, there, monkeypatch, caplog):
    make_video(here / ".a.moved")

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(durable, "sync", refuse)
    finish_moves([(here, there)])
    assert "the next start tries again" in caplog.text


def test_what_is_discarded_is_gone_whatever_kills_it(here, monkeypatch):
    make_video(here / "a")
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, 3, after=False)  # when its name is hidden and nothing is removed yet
        with pytest.raises(Killed):
            discard(here / "a")
    assert not (here / "a").exists()
    finish_moves([(here / "x", here)])
    assert list(here.iterdir()) == []


def test_a_file_gets_a_second_name_that_outlives_the_first(here):
    source, target = here / "a", here / "b"
    source.write_text("x")
    link_file(source, target)
    assert source.stat().st_ino == target.stat().st_ino
    source.unlink()
    assert (target.read_text(), [path.name for path in here.iterdir()]) == ("x", ["b"])


def test_where_there_are_no_second_names_a_file_is_copied(here, there, monkeypatch):
    (here / "a").write_text("x")
    link_file(here / "a", there / "a")
    assert (there / "a").read_text() == "x"
    for number in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):

        def refusing(source, target, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", refusing)
        (here / "b").unlink(missing_ok=True)
        link_file(here / "a", here / "b")
        assert (here / "b").read_text() == "x"
    assert sorted(path.name for path in here.iterdir()) == ["a", "b"]


def test_a_second_name_is_whole_or_not_there(here, monkeypatch):
    """A process that dies at any moment leaves nothing under the name, and what it left hinders no later one."""
    (here / "a").write_text("x")

    def killed(part, target):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(durable, "replace_file", killed)
        with pytest.raises(Killed):
            link_file(here / "a", here / "b")
    assert not (here / "b").exists()
    link_file(here / "a", here / "b")
    assert sorted(path.name for path in here.iterdir()) == ["a", "b"]


def test_a_disk_that_takes_no_second_name_for_another_reason_says_so(here, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (here / "a").write_text("x")
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space"):
        link_file(here / "a", here / "b")
