"""P08, T10: uploads and unfinished films take no more than they may."""

from __future__ import annotations

import errno

import pytest

from backend.core.config import MIB
from backend.core.errors import NotEnoughSpace
from backend.media.uploads import Uploads


def test_uploads_have_a_quota_together(settings):
    small = settings.model_copy(update={"upload_limit_bytes": MIB, "uploads_quota_bytes": 3 * MIB})
    uploads = Uploads(small)
    with uploads.receive("a.png") as first, uploads.receive("b.png") as second:
        first.write(bytes(MIB))
        second.write(bytes(MIB))
        first._file.flush()
        second._file.flush()
        with uploads.receive("c.png") as third:  # what is on its way counts
            third.write(bytes(MIB))
            third._file.flush()
            with pytest.raises(NotEnoughSpace, match=r"Uploads take 0\.0 of"):
                uploads.receive("d.png")
    uploads.receive("e.png").discard()  # all of them were given up, so there is room again


def test_a_disk_that_fills_up_during_an_upload_is_a_sentence_and_leaves_nothing(settings, monkeypatch):
    uploads = Uploads(settings)
    with uploads.receive("a.mp4") as incoming:

        class Full:
            def write(self, data):
                raise OSError(errno.ENOSPC, "No space left on device")

            def close(self):
                raise OSError(errno.ENOSPC, "No space left on device")

        incoming._file.close()
        incoming._file = Full()
        with pytest.raises(NotEnoughSpace, match="disk is full"):
            incoming.write(b"x")
    assert not list(settings.uploads.glob("*/*"))


def test_unfinished_films_beyond_the_quota_go_the_oldest_first(generator, faults, a_request, monkeypatch):
    faults.raise_at = {5: MemoryError("boom")}
    failed = [generator.wait(generator.submit(a_request(seed=n)).id, 30) for n in range(3)]
    faults.raise_at = {}
    for job in failed:
        folder = generator.settings.temp / job.id
        folder.mkdir(exist_ok=True)
        (folder / "state").write_bytes(bytes(MIB))
    generator.tidying._settings = generator.settings.model_copy(update={"unfinished_quota_bytes": 2 * MIB + MIB // 2})
    generator.tidying.tidy()
    assert [(generator.settings.temp / job.id).exists() for job in failed] == [False, True, True]
