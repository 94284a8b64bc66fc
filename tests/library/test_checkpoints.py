from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backend.core.config import Settings
from backend.core.registry import ALL_MODES, MODELS, PIXELS_720P, Transformer
from backend.core.schema import Mode
from backend.library.checkpoints import find_checkpoints
from tests.tiny_checkpoints import KINDS, build_checkpoint


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("built")
    return {kind: build_checkpoint(root / f"Random {kind}", kind) for kind in KINDS}


@pytest.fixture
def models(tmp_path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def found(models, caplog):
    """The specs found by id, and the log."""

    def find(*folders):
        with caplog.at_level(logging.WARNING, "backend.library.checkpoints"):
            return {c.spec.id: c for c in find_checkpoints(folders or [models])}

    return find


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def in_its_place(file: Path, make) -> None:
    file.unlink()
    make(file)


def link_to_itself(file: Path) -> None:
    """What not even root can read."""
    file.symlink_to(file)


def test_no_folder_is_no_checkpoint(found, tmp_path):
    assert found(tmp_path / "none") == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_read_from_the_files(built, models, found, kind):
    shutil.copytree(built[kind], models / "My film & co")
    checkpoint = found()["my-film-co"]
    spec = checkpoint.spec
    assert checkpoint.folder == models / "My film & co"
    assert spec.title == "My film & co"
    assert spec.engine == "skyreels"
    modes = {"df": ALL_MODES, "t2v": {Mode.TEXT_TO_VIDEO}, "i2v": {Mode.IMAGE_TO_VIDEO}}
    assert spec.modes == modes[kind]
    assert spec.diffusion_forcing is spec.end_image is (kind == "df")
    in_channels = 36 if kind == "i2v" else 16
    image_dim = 32 if kind == "i2v" else 0
    assert spec.transformer == Transformer(2, 24, 32, in_channels, text_dim=32, image_dim=image_dim, freq_dim=32)
    assert spec.spatial_factor == 8
    assert (spec.guidance_scale, spec.flow_shift) == ((5.0, 5.0) if kind == "i2v" else (6.0, 8.0))
    weights = (models / "My film & co/transformer/diffusion_pytorch_model.safetensors").stat().st_size
    assert spec.weights_gib == weights / 2**30
    every = sum(file.stat().st_size for file in (models / "My film & co").rglob("*.safetensors"))
    assert spec.memory_gib == pytest.approx(every / 2**30)


WITH_CONTROL = Transformer(3, 24, 32, text_dim=32, freq_dim=32, vace_layers=1)


@pytest.mark.parametrize(
    ("kind", "modes", "row"),
    [
        ("wan-t2v", {Mode.TEXT_TO_VIDEO}, {"fps": 16, "base_num_frames": 81, "experts": 1, "flow_shift": 8.0}),
        ("wan-i2v", {Mode.IMAGE_TO_VIDEO}, {"end_image": False}),
        ("wan-vace", ALL_MODES, {"end_image": True, "transformer": WITH_CONTROL}),
        ("wan-ti2v", {Mode.TEXT_TO_VIDEO, Mode.IMAGE_TO_VIDEO}, {"fps": 24, "spatial_factor": 16}),
        ("wan-t2v-experts", {Mode.TEXT_TO_VIDEO}, {"experts": 2}),
        ("wan-i2v-experts", {Mode.IMAGE_TO_VIDEO}, {"experts": 2, "end_image": True}),
    ],
)
def test_a_row_of_wan_is_read_from_the_files(models, found, kind, modes, row):
    folder = build_checkpoint(models / "Mine", kind)
    spec = found()["mine"].spec
    assert (spec.family, spec.diffusion_forcing, spec.modes) == ("wan", False, modes)
    assert {name: getattr(spec, name) for name in row} == row
    weights = sum(file.stat().st_size for file in folder.glob("transformer*/*.safetensors"))
    assert spec.weights_gib == weights / 2**30


def test_two_experts_need_to_know_where_they_change(models, found, caplog):
    folder = build_checkpoint(models / "Mine", "wan-t2v-experts")
    edit(folder / "model_index.json", boundary_ratio=None)
    assert found() == {}
    assert "no boundary_ratio" in caplog.text
    edit(folder / "model_index.json", boundary_ratio=0.9)
    shutil.rmtree(folder / "transformer_2")
    assert found() == {}
    assert "transformer_2 has no weights" in caplog.text


def test_all_forcing_classes_share_their_weights(built, models, found):
    for number, kind in enumerate(("", "ImageToVideo", "VideoToVideo")):
        folder = shutil.copytree(built["df"], models / f"df-{number}")
        edit(folder / "model_index.json", _class_name=f"SkyReelsV2DiffusionForcing{kind}Pipeline")
    assert [checkpoint.spec.modes for checkpoint in found().values()] == [ALL_MODES] * 3


def test_a_released_name_gets_the_registrys_row(built, models, found):
    shutil.copytree(built["df"], models / "Skywork/SkyReels-V2-DF-14B-720P-Diffusers")  # as the hub lays it out
    shutil.copytree(built["i2v"], models / "skyreels-v2-i2v-1.3b-540p")
    assert [c.spec for c in found().values()] == [
        MODELS["skyreels-v2-df-14b-720p"],
        MODELS["skyreels-v2-i2v-1.3b-540p"],
    ]


def test_what_the_files_say_is_believed(built, models, found):
    folder = shutil.copytree(built["t2v"], models / "tuned-720P")
    edit(folder / "scheduler/scheduler_config.json", flow_shift=3.0)
    edit(folder / "vae/config.json", patch_size=2)
    spec = found()["tuned-720p"].spec
    assert (spec.flow_shift, spec.spatial_factor) == (3.0, 16)
    assert (spec.max_pixels, spec.base_num_frames) == (PIXELS_720P, 121)
    edit(folder / "scheduler/scheduler_config.json", flow_shift=1.0)  # written when nobody chose one
    assert found()["tuned-720p"].spec.flow_shift == 8.0


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def to_bin(folder: Path) -> None:
    file = folder / "text_encoder/model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))


def lose_a_shard(folder: Path) -> None:
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "text_encoder/model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "model_index.json").write_text("{"), "JSON|delimiter|property name"),
        (lambda f: (f / "model_index.json").write_text("[]"), "not a JSON object"),
        (lambda f: in_its_place(f / "model_index.json", Path.mkdir), "broken/model_index.json is no file; remove it"),
        (lambda f: in_its_place(f / "model_index.json", os.mkfifo), "broken/model_index.json is no file; remove it"),
        (
            lambda f: in_its_place(f / "model_index.json", link_to_itself),
            r"index.json cannot be read \(Too many.*; mend",
        ),
        (lambda f: in_its_place(f / "vae/config.json", Path.mkdir), "vae/config.json is no file; remove it"),
        (
            lambda f: in_its_place(f / "vae/config.json", link_to_itself),
            r"config.json cannot be read \(Too many.*; mend",
        ),
        (lambda f: edit(f / "model_index.json", _class_name="LTXPipeline"), "'LTXPipeline' is not a pipeline of Sky"),
        (lambda f: cut(f / "transformer/diffusion_pytorch_model.safetensors"), "cut short or damaged"),
        (lambda f: (f / "vae/diffusion_pytorch_model.safetensors").write_bytes(b""), "cut short or damaged"),
        (lambda f: (f / "vae/diffusion_pytorch_model.safetensors").unlink(), "vae has no weights"),
        (lambda f: (f / "vae/config.json").unlink(), "vae/config.json is missing"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "no tokenizer"),
        (lambda f: shutil.rmtree(f / "scheduler"), "scheduler_config.json is missing"),
        (lambda f: edit(f / "transformer/config.json", num_layers=None), "TypeError|int"),
        (lambda f: edit(f / "transformer/config.json", patch_size=[1, 1, 1]), "patch_size"),
        (lambda f: edit(f / "vae/config.json", temperal_downsample=[False, False, True]), "packs 2 frames"),
        (to_bin, r"only pytorch_model.bin, which can run code"),
        (lose_a_shard, "text_encoder lacks model-2.safetensors"),
    ],
)
def test_a_damaged_folder_is_left_out_by_name(built, models, found, caplog, damage, reason):
    damage(shutil.copytree(built["df"], models / "broken"))
    shutil.copytree(built["df"], models / "whole")
    assert list(found()) == ["whole"]
    assert len(caplog.records) == 1
    assert str(models / "broken") in caplog.text
    assert re.search(reason, caplog.text)


def test_a_folder_that_cannot_be_read_is_left_out_by_name(built, models, found, caplog, monkeypatch):
    shutil.copytree(built["df"], models / "whole")
    (models / "closed").mkdir()
    looked, iterdir = [], Path.iterdir

    def closed(folder):
        if folder.name == "closed":
            looked.append(folder)
            raise PermissionError(13, "Permission denied", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", closed)
    assert list(found()) == ["whole"]
    assert looked
    assert "closed is left out: it cannot be read (Permission denied)" in caplog.text


def test_two_of_one_id_keep_the_first(built, models, tmp_path, found, caplog):
    shutil.copytree(built["df"], models / "film")
    shutil.copytree(built["df"], tmp_path / "others/Film")
    assert found(models, tmp_path / "others")["film"].folder == models / "film"
    assert "others/Film is left out" in caplog.text
    caplog.clear()
    assert list(found(models, models)) == ["film"]  # the data folder may be the checkout
    assert not caplog.records


@pytest.mark.parametrize("name", ["auto", "Synthetic", "---"])
def test_names_with_a_meaning_are_not_ids(built, models, found, caplog, name):
    shutil.copytree(built["df"], models / name)
    assert found() == {}
    assert "rename the folder" in caplog.text


def test_downloads_in_progress_are_not_looked_at(built, models, found, caplog):
    shutil.copytree(built["df"], models / ".partial/film")
    shutil.copytree(built["df"], models / ".film")
    assert found() == {}
    assert not caplog.records


def test_looking_takes_no_torch():
    code = "import sys, backend.library.checkpoints, backend.skyreels_integration; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_in_a_folder_that_data_folders_share_are_found(tmp_path, monkeypatch):
    build_checkpoint(tmp_path / "shared" / "random-df", "df")
    monkeypatch.setenv("STUDIO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("STUDIO_MODELS", str(tmp_path / "shared"))
    settings = Settings.from_env()
    assert [found.spec.id for found in find_checkpoints(settings.model_folders)] == ["random-df"]
    assert Settings(data=tmp_path).shared_models == Settings().models


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("transformer/config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
        ("transformer/config.json", {"deeper": [{"auto_map": {"AutoModel": "evil.Model"}}]}),
        ("text_encoder/config.json", {"transformers_weights": "adapter_model.bin"}),
        ("text_encoder/config.json", {"_attn_implementation_internal": "someone/kernel"}),
        ("text_encoder/config.json", {"attn_implementation": "someone/kernel@v1"}),
        ("model_index.json", {"custom_pipeline": "someone/pipeline"}),
    ],
)
def test_a_checkpoint_that_asks_for_code_is_left_out(built, models, found, caplog, file, entry):
    shutil.copytree(built["df"], models / "film")
    edit(models / "film" / file, **entry)
    assert found() == {}
    assert "asks for code or files from elsewhere" in caplog.text


def test_a_header_that_is_too_long_is_not_read(built, models, found, caplog):
    shutil.copytree(built["df"], models / "film")
    (file,) = (models / "film" / "vae").glob("*.safetensors")
    file.write_bytes((9 * 2**20).to_bytes(8, "little") + b" " * (10 * 2**20))
    assert found() == {}
    assert "has a header of 9437184 bytes" in caplog.text


def test_a_shard_outside_the_folder_is_not_followed(built, models, found, caplog):
    shutil.copytree(built["df"], models / "film")
    index = {"metadata": {}, "weight_map": {"x": "../../../etc/passwd"}}
    (models / "film" / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert found() == {}
    assert "lacks ../../../etc/passwd" in caplog.text


def _overwrite(name, data):
    def spoil(folder):
        (folder / name).write_bytes(data)

    return spoil


def _config(part, **entries):
    def spoil(folder):
        file = folder / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | entries))

    return spoil


def _in_the_way(folder):
    os.mkfifo(folder / "vae" / "x.json")


def _endless(folder):
    (folder / "vae" / "x.json").symlink_to("/dev/zero")


def _header(text):
    return len(text).to_bytes(8, "little") + text


SPOILED = {
    "deep JSON": _overwrite("tokenizer/x.json", b"[" * 200_000),
    "deep header": _overwrite("vae/diffusion_pytorch_model.safetensors", _header(b"[" * 100_000)),
    "no offsets": _overwrite("vae/diffusion_pytorch_model.safetensors", _header(b'{"a": {"data_offsets": []}}')),
    "endless layers": _config("transformer", num_layers=float("inf")),
    "endless frames": _config("vae", temperal_downsample=[1e308]),
    "a large configuration": _overwrite("vae/x.json", b'{"a": "' + b" " * 9 * 2**20 + b'"}'),
    "a pipe": _in_the_way,
    "a device": _endless,
}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.timeout(60)
def test_a_spoiled_checkpoint_is_left_out_and_the_others_stay(tmp_path, how):
    build_checkpoint(tmp_path / "good", "df")
    SPOILED[how](build_checkpoint(tmp_path / "spoiled", "df"))
    assert [found.spec.id for found in find_checkpoints([tmp_path])] == ["good"]


SIDE_FILES = ("._{}", ".DS_Store", "Thumbs.db", "desktop.ini", "{}~", "__MACOSX/._{}", ".cache/huggingface/{}")


@pytest.mark.parametrize("side", SIDE_FILES)
def test_side_files_of_an_operating_system_do_not_count(built, models, found, side):
    folder = shutil.copytree(built["df"], models / "mine")
    before = found()["mine"].spec
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        junk = file.parent / side.format(file.name)
        junk.parent.mkdir(parents=True, exist_ok=True)
        junk.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")  # how an AppleDouble file begins, RFC 1740
    shutil.copytree(built["df"], models / "__MACOSX")
    assert {name: one.spec for name, one in found().items()} == {"mine": before}


def rename_weights(folder: Path, part: str, variant: str) -> int:
    (file,) = (folder / part).glob("*.safetensors")
    renamed = file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))
    return renamed.stat().st_size


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_weights_of_a_variant_count_where_there_are_no_others(built, models, found, variant):
    folder = shutil.copytree(built["i2v"], models / "mine")
    before = found()["mine"].spec
    for part in ("transformer", "vae", "text_encoder", "image_encoder"):
        rename_weights(folder, part, variant)
    assert found()["mine"].spec == before


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
@pytest.mark.parametrize("name", ["{}.fp16", "{}.ema", "{}.non_ema", "{}-old", "consolidated"])
def test_weights_that_are_not_loaded_are_not_weighed(built, models, found, part, name):
    folder = shutil.copytree(built["df"], models / "mine")
    before = found()["mine"].spec
    (file,) = (folder / part).glob("*.safetensors")
    file.with_name(f"{name.format(file.stem)}.safetensors").write_bytes(b"cut short")
    assert found()["mine"].spec == before


def test_of_shards_and_a_single_file_what_is_loaded_is_weighed(built, models, found):
    """diffusers loads the shards of an index, transformers the single file."""
    folder = shutil.copytree(built["df"], models / "mine")
    sizes = {}
    for part in ("transformer", "text_encoder"):
        (file,) = (folder / part).glob("*.safetensors")
        sizes[part] = file.stat().st_size
        shutil.copy(built["df"] / "vae/diffusion_pytorch_model.safetensors", file.with_name("shard.safetensors"))
        index = {"metadata": {}, "weight_map": {"x": "shard.safetensors"}}
        file.with_name(f"{file.name}.index.json").write_text(json.dumps(index))
    vae = (folder / "vae/diffusion_pytorch_model.safetensors").stat().st_size
    spec = found()["mine"].spec
    assert (spec.weights_gib, spec.other_gib) == (vae / 2**30, (sizes["text_encoder"] + vae) / 2**30)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ["wan.safetensors"],
            "only wan.safetensors, and diffusion_pytorch_model.safetensors is loaded; download",
        ),
        (["diffusion_pytorch_model.fp8.safetensors"], "only diffusion_pytorch_model.fp8.safetensors, and"),
        (["diffusion_pytorch_model-00001-of-00002.safetensors"], "only diffusion_pytorch_model-00001-of-00002.safe"),
        (["wan-Q4.gguf"], "only wan-Q4.gguf, a GGUF file; safetensors are needed"),
        (["._diffusion_pytorch_model.safetensors"], "transformer has no weights; safetensors are needed"),
    ],
)
def test_weights_of_another_name_or_kind_are_said(built, models, found, caplog, names, reason):
    folder = shutil.copytree(built["df"], models / "mine")
    (file,) = (folder / "transformer").glob("*.safetensors")
    for name in names:
        shutil.copy(file, file.with_name(name))
    file.unlink()
    assert found() == {}
    assert reason in caplog.text


@pytest.mark.parametrize(
    "file",
    [
        "transformer/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/spiece.model",
        "vae/config.json",
        "model_index.json",
    ],
)
def test_a_git_lfs_pointer_says_how_to_fetch_the_file(built, models, found, caplog, file):
    folder = shutil.copytree(built["df"], models / "cloned")
    digest = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
    (folder / file).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 12345\n")
    assert found() == {}
    assert f"{'cloned/' * (file == 'model_index.json')}{file} is a git-lfs pointer" in caplog.text
    assert "run `git lfs pull`" in caplog.text


def cache(place: Path, checkpoint: Path, commit: str) -> Path:
    """`checkpoint` as huggingface_hub keeps a snapshot: relative links to blobs that are named by their hash."""
    snapshot = place / "snapshots" / commit
    for file in [file for file in checkpoint.rglob("*") if file.is_file()]:
        blob = place / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(checkpoint)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text(commit)
    return snapshot


@pytest.mark.parametrize("below", ["", "hub"])
def test_a_folder_of_the_hubs_cache_is_used_as_it_is(built, models, found, below):
    place = models / below / "models--someone--Random-DF"
    old, new = (cache(place, built["df"], commit) for commit in ("a" * 40, "b" * 40))
    os.utime(old, (2e9, 2e9))
    assert {name: (one.folder, one.spec.title) for name, one in found().items()} == {"random-df": (new, "Random-DF")}
    (place / "refs/main").write_text("c" * 40)  # a commit that is not here: the newest snapshot is taken
    assert found()["random-df"].folder == old
    shutil.rmtree(place / "refs")
    assert found()["random-df"].folder == old


def test_a_released_model_in_the_hubs_cache_gets_the_registrys_row(built, models, found):
    cache(models / "models--Skywork--SkyReels-V2-DF-14B-720P-Diffusers", built["df"], "a" * 40)
    assert found()["skyreels-v2-df-14b-720p"].spec == MODELS["skyreels-v2-df-14b-720p"]


def test_a_cached_model_that_is_not_complete_is_left_out_by_its_name(built, models, found, caplog):
    snapshot = cache(models / "models--someone--mine", built["df"], "a" * 40)
    (snapshot / "transformer/diffusion_pytorch_model.safetensors").resolve().unlink()
    assert found() == {}
    assert "models/models--someone--mine is left out" in caplog.text
    assert "is a link to a file that is gone; download it again" in caplog.text
