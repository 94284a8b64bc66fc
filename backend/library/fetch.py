"""The child process that downloads one model from the hub: `python -m backend.library.fetch FOLDER`.

FOLDER holds `request.json` (see `downloads.py`), `files.json` (the commit and its files, once the hub has listed them)
and `checkpoint/`, where a file that is not complete, or whose hash is not checked yet, is named `.part`. So the
process can be killed at any moment, and the next one resumes. It writes messages to stdout, a JSON object a line:
`{"done": bytes, "total": bytes, "file": path}`, `{"log": text}`, and where it failed
`{"error": {code, message, hint}}`.

huggingface_hub lists the files and reads their bytes, with its mirrors and retries. Resuming a file that was cut off,
and checking its hash, are done here: that library begins such a file anew.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from backend.core.errors import ModelUnavailable, NotEnoughSpace, StudioError
from backend.core.units import GIB
from backend.durable import move_folder, replace_file
from backend.library.checkpoints import PARTS, Damaged, read_spec
from backend.library.foreign import is_side_file

log = logging.getLogger(__name__)
T = TypeVar("T")

REQUEST, FILES, CHECKPOINT = "request.json", "files.json", "checkpoint"
REQUEST_0_1 = "wish.json"  # the name of request.json in version 0.1
RECORD = ".files.json"  # in a finished checkpoint: what it was fetched as

FILES_MOST = 2000
TOP_FILES = re.compile(r"model_index\.json|README\.md|LICEN[CS]E(\.\w+)?", re.IGNORECASE)
PART_FILES = re.compile(r"[\w.-]+\.json|[\w.-]+\.safetensors|spiece\.model|tokenizer\.model|merges\.txt|vocab\.txt")
VARIANT = re.compile(r"\.(fp16|bf16|fp8|ema|non_ema)\b|non_ema")
COMPONENT = re.compile(r"[\w-][\w.+-]*")

HUB_HOSTS = ("huggingface.co", "hf.co")  # and what is below them: where the hub sends for large files
TRIES = 4  # without a byte more
BACK_OFF_S = 0.5
REPORT_EVERY_S = 0.3
CHUNK = 2**16


@dataclass(frozen=True, slots=True)
class File:
    """A file of a repository and its expected hash: SHA-256, or for a small file git's SHA-1 of the blob."""

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def matches(self, content: Path) -> bool:
        """Whether the file `content` has the expected hash."""
        named = hashlib.sha256() if self.sha256 else hashlib.sha1(usedforsecurity=False)
        if not self.sha256:
            named.update(b"blob %d\0" % content.stat().st_size)
        with content.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                named.update(chunk)
        return named.hexdigest() == (self.sha256 or self.git_sha1)


@dataclass(frozen=True, slots=True)
class Listing:
    """A commit of a repository, and the files of it that are fetched."""

    repo_id: str
    commit: str
    files: tuple[File, ...]

    @classmethod
    def read(cls, file: Path) -> Listing | None:
        """Read what `write` wrote; None if there is no file that can be read."""
        try:
            stored = json.loads(file.read_bytes())
            return cls(stored["repo_id"], stored["commit"], tuple(File(**one) for one in stored["files"]))
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def write(self, file: Path) -> None:
        part = file.with_name(f"{file.name}.part")
        part.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        replace_file(part, file)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def wanted_files(repo_id: str, listed: Iterator[File] | list[File]) -> tuple[File, ...]:
    """Select the files of a repository that a checkpoint in diffusers format needs, none of which can run code.

    Raises ModelUnavailable for a repository without a checkpoint, or one that names files outside of itself.
    """
    files = list(listed)
    if len(files) > FILES_MOST:
        raise _no_model(repo_id, f"has {len(files)} files; a model has fewer")
    for file in files:
        strange = file.path.startswith("/") or "\\" in file.path or ".." in file.path.split("/")
        if strange or not file.path.isprintable():
            raise _no_model(repo_id, f"names a file {file.path[:80]!r}, outside of itself")
    found = tuple(file for file in files if is_wanted(file.path))
    if not any(file.path == "model_index.json" for file in found):
        raise _no_model(repo_id, "has no model_index.json, so it is no checkpoint in diffusers format")
    unknown = [file.path for file in found if not (file.sha256 or file.git_sha1) or file.size < 0]
    if unknown:
        raise _no_model(repo_id, f"tells no size or hash of {unknown[0]}")
    return found


def is_wanted(path: str) -> bool:
    """Whether a checkpoint needs a file of that path: settings, tokenizer, safetensors; and whose it is."""
    folder, _, name = path.rpartition("/")
    if is_side_file(name):
        return False
    if not folder:
        return TOP_FILES.fullmatch(name) is not None
    return folder in PARTS and PART_FILES.fullmatch(name) is not None and not VARIANT.search(name)


def _no_model(repo_id: str, reason: str) -> ModelUnavailable:
    return ModelUnavailable(f"{repo_id} {reason};", hint="choose another model.")


class Hub:
    """Client of the Hugging Face hub or its mirror. It connects to that host and to the hub's own hosts only."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        import huggingface_hub
        from huggingface_hub import constants

        self._token = environ.get("HF_TOKEN") or False  # never one from a file on this disk
        self._endpoint = constants.ENDPOINT
        self._host = urlsplit(self._endpoint).hostname or ""
        constants.DOWNLOAD_CHUNK_SIZE = CHUNK  # what is lost when the connection breaks
        huggingface_hub.set_client_factory(self._client)

    def _client(self) -> Any:
        import httpx2

        return httpx2.Client(event_hooks={"request": [self._check]}, follow_redirects=True, timeout=30.0)

    def _check(self, request: Any) -> None:
        """Refuse other hosts; called before every request, those of a redirect included."""
        host, encrypted = request.url.host, request.url.scheme == "https"
        known = any(host == hub or host.endswith(f".{hub}") for hub in HUB_HOSTS)
        if f"{request.url}".startswith(f"{self._endpoint}/") or (encrypted and (known or host == self._host)):
            return
        raise ModelUnavailable(
            f"The hub sends to {request.url.scheme}://{host}, which is not its own;",
            hint="see that HF_ENDPOINT names a hub that you trust.",
        )

    def list_files(self, repo_id: str, revision: str | None) -> Listing:
        """The commit that `revision`, or the main branch, is now, and its files."""
        from huggingface_hub import HfApi

        info = HfApi(token=self._token).model_info(repo_id, revision=revision, files_metadata=True)
        files = [
            File(one.rfilename, -1 if one.size is None else one.size, one.lfs.sha256 if one.lfs else None, one.blob_id)
            for one in info.siblings or []
        ]
        return Listing(repo_id, str(info.sha), wanted_files(repo_id, files))

    def read(self, listing: Listing, file: File, to: BinaryIO, have: int) -> None:
        """Append the bytes of `file` from `have` on to `to`; from its beginning if the hub ignores the range."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(listing.repo_id, file.path, revision=listing.commit)
        headers = build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"}
        http_get(url, to, resume_size=have, headers=headers, expected_size=file.size)


class _Part:
    """A file being written, which reports its length after every write."""

    def __init__(self, stream: BinaryIO, report: Callable[[int], None]) -> None:
        self._stream, self._report = stream, report

    def write(self, chunk: bytes) -> int:
        written = self._stream.write(chunk)
        self._report(self._stream.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Fetch:
    """One download, resumed from the files in `folder`."""

    def __init__(self, folder: Path, hub: Hub, send: Callable[[dict[str, Any]], None], reserve_bytes: int) -> None:
        self._folder, self._hub, self._send, self._reserve = folder, hub, send, reserve_bytes
        self._checkpoint = folder / CHECKPOINT
        self._reported_at = 0.0

    def run(self, repo_id: str, revision: str | None, target: Path) -> None:
        """Download the missing files, then move the checkpoint to `target`. Raises StudioError or OSError."""
        listing = Listing.read(self._folder / FILES) or self._list(repo_id, revision)
        missing = [file for file in listing.files if not (self._checkpoint / file.path).exists()]
        self._check_space(listing, missing)
        done = listing.size - sum(file.size for file in missing)
        for file in missing:
            self._fetch(listing, file, done)
            done += file.size
        self._report(listing, listing.size, "", force=True)
        listing.write(self._checkpoint / RECORD)
        try:
            read_spec(self._checkpoint, target.name)
        except Damaged as error:
            raise _no_model(repo_id, f"cannot be used here: {error}") from None
        move_folder(self._checkpoint, target)

    def _list(self, repo_id: str, revision: str | None) -> Listing:
        listing = _retry(lambda: self._hub.list_files(repo_id, revision), lambda: None)
        listing.write(self._folder / FILES)
        return listing

    def _check_space(self, listing: Listing, missing: list[File]) -> None:
        have = sum(part.stat().st_size for part in self._checkpoint.rglob("*.part"))
        needs = sum(file.size for file in missing) - have
        free = shutil.disk_usage(self._folder).free
        if missing and needs + self._reserve > free:
            raise NotEnoughSpace(
                f"{listing.repo_id} needs {needs / GIB:.1f} GiB more and {self._reserve / GIB:.1f} GiB must stay free,"
                f" but {free / GIB:.1f} GiB are;",
                hint="make room, then resume the download.",
            )

    def _fetch(self, listing: Listing, file: File, before: int) -> None:
        """Download `file`, check its hash and rename it."""
        target = self._checkpoint / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        for last in (False, True):
            _retry(lambda: self._read(listing, file, part, before), lambda: _size(part))
            if file.matches(part):
                replace_file(part, target)
                return
            part.unlink()
            if last:
                expected = (file.sha256 or file.git_sha1 or "")[:12]
                raise ModelUnavailable(
                    f"{file.path} of {listing.repo_id} is not what the hub's list says (hash {expected}... expected);",
                    hint="try again later, or from another mirror.",
                )

    def _read(self, listing: Listing, file: File, part: Path, before: int) -> None:
        have = _size(part)
        if have > file.size:
            part.unlink()
            have = 0
        with part.open("ab") as stream:

            def report(length: int) -> None:
                self._report(listing, before + length, file.path)

            report(have)
            if have < file.size or not file.size:
                self._hub.read(listing, file, cast(BinaryIO, _Part(stream, report)), have)

    def _report(self, listing: Listing, done: int, path: str, *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._reported_at > REPORT_EVERY_S:
            self._reported_at = now
            self._send({"done": done, "total": listing.size, "file": path})


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _retry(work: Callable[[], T], progress: Callable[[], object]) -> T:
    """Call `work`, again after network errors while `progress` changes or TRIES are left. Raises its last error."""
    left, mark = TRIES, progress()
    while True:
        try:
            return work()
        except StudioError:
            raise
        except Exception as error:
            failure, temporary = _as_studio_error(error)
            now = progress()
            left = TRIES if now != mark else left - 1
            if not temporary or left <= 0:
                raise failure from error
            log.warning("%s Trying again.", failure)
            mark = now
            time.sleep(BACK_OFF_S * 2 ** (TRIES - left))


def _as_studio_error(error: Exception) -> tuple[StudioError, bool]:
    """The error for the user, and whether it may be temporary."""
    import httpx2
    from huggingface_hub import errors

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if isinstance(error, errors.OfflineModeIsEnabled):
        return _failed(
            "The hub is switched off by HF_HUB_OFFLINE", "unset it, or import the model from a folder"
        ), False
    if status in (401, 403) or isinstance(error, errors.GatedRepoError):
        return _failed(
            "The hub does not give this model to everybody",
            "accept its licence on the hub's page, set HF_TOKEN to your token and start the studio again",
        ), False
    if status == 404:
        return _failed("The hub does not have this model, or not this file of it", "choose another one"), False
    if status:
        return _failed(f"The hub answers with an error ({status})", "resume the download later"), True
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NotEnoughSpace("The disk is full;", hint="make room, then resume the download."), False
    if isinstance(error, OSError) and error.errno is not None:
        return _failed(f"The disk refused a file ({error.strerror})", "see that models/ can be written"), False
    if isinstance(error, httpx2.HTTPError | OSError):
        return _failed("The hub does not answer as it should", "see to the network, then resume the download"), True
    return _failed(f"The download stopped ({type(error).__name__})", "resume it; the log has the rest"), False


def _failed(what: str, way_out: str) -> ModelUnavailable:
    return ModelUnavailable(f"{what};", hint=f"{way_out}.")


def main() -> None:
    folder = Path(sys.argv[1])
    request = json.loads((folder / REQUEST).read_bytes())
    target = folder.parents[1] / folder.name

    def send(message: dict[str, Any]) -> None:
        try:
            print(json.dumps(message), flush=True)
        except BrokenPipeError:  # the studio has ended; the files are kept for the next one
            os._exit(1)

    class ToParent(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            send({"log": record.getMessage()})

    log.addHandler(ToParent())
    try:
        fetch = Fetch(folder, Hub(os.environ), send, int(sys.argv[2]))
        fetch.run(request["repo_id"], request["revision"], target)
    except Exception as error:
        failure = error if isinstance(error, StudioError) else _as_studio_error(error)[0]
        log.warning("%s: %s", folder.name, error)
        send({"error": failure.as_dict()})
        sys.exit(1)


if __name__ == "__main__":
    main()
