"""A ZIP as a stream: what unpacks it finds, its size told before, and no more in memory than a piece."""

import io
import os
import zipfile

import psutil
import pytest

from backend.media import zip_stream
from backend.media.zip_stream import Member, zip_size


@pytest.fixture
def members(tmp_path):
    found = []
    for number, size in enumerate((0, 1, 1000, 100_000, 3 * 2**20 + 5)):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(os.urandom(size))
        found.append(Member.of(f"{number}-a-red-boat.mp4", path))
    return found


def opened(members):
    """Those of the members' files that this process has open."""
    return {file.path for file in psutil.Process().open_files()} & {str(member.path) for member in members}


def whole(members):
    return b"".join(zip_stream.stream_zip(members))


@pytest.mark.parametrize("limit", [None, 2 * 2**20, 90_000, 500, 0], ids=str)
def test_it_has_the_size_that_was_told_and_every_file(members, monkeypatch, limit):
    """With smaller limits the fields of ZIP64 that large archives need are used: of sizes, offsets and the end."""
    if limit is not None:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    for some in (members, members[:1], members[2:], members[::-1], []):
        archive = whole(some)
        assert len(archive) == zip_size(some)
        with zipfile.ZipFile(io.BytesIO(archive)) as found:
            assert found.testzip() is None
            assert {name: found.read(name) for name in found.namelist()} == {
                member.name: member.path.read_bytes() for member in some
            }
            assert {info.compress_type for info in found.infolist()} <= {zipfile.ZIP_STORED}


def test_more_files_than_the_small_end_can_count(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    (tmp_path / "x").write_bytes(b"x")
    many = [Member.of(f"{number}.mp4", tmp_path / "x") for number in range(5)]
    assert len(whole(many)) == zip_size(many)


def test_the_size_of_an_archive_beyond_four_gigabytes(tmp_path):
    """By hand, from PKWARE's APPNOTE: the sizes in 64 bits, the offset of what lies behind them too, the long end."""
    size = 5 * 2**30
    many = [Member("a.mp4", tmp_path, size, 0.0), Member("b.mp4", tmp_path, 10, 0.0)]
    local = (30 + 5 + 20 + size + 24) + (30 + 5 + 10 + 16)
    central = (46 + 5 + 4 + 16) + (46 + 5 + 4 + 8)
    assert zip_size(many) == local + central + 56 + 20 + 22


def test_a_file_is_read_in_pieces_and_those_are_given_on(members):
    pieces = list(zip_stream.stream_zip(members))
    assert max(map(len, pieces)) < zip_stream.PIECE + 500


def test_a_file_that_has_gone_ends_the_stream(members):
    members[3].path.unlink()
    with pytest.raises(FileNotFoundError):
        whole(members)


def test_a_stream_that_nobody_wants_any_more_closes_its_file(members):
    stream = zip_stream.stream_zip(members)
    next(stream)
    assert opened(members) != set()
    stream.close()
    assert opened(members) == set()


@pytest.mark.parametrize("seconds", [0, 10**9, 5 * 10**9])
def test_times_that_a_zip_cannot_have_are_moved(tmp_path, seconds):
    (tmp_path / "x").write_bytes(b"x")
    os.utime(tmp_path / "x", (seconds, seconds))
    archive = zipfile.ZipFile(io.BytesIO(whole([Member.of("x.mp4", tmp_path / "x")])))
    assert 1980 <= archive.infolist()[0].date_time[0] <= 2107
