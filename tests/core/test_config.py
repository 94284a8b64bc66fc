"""Settings from the environment."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from backend import utils
from backend.core.config import ROOT, Settings, variable_of
from backend.core.errors import InvalidRequest


@pytest.fixture
def environ(monkeypatch):
    """Sets variables of an environment that has none of the studio's."""
    for name in (*map(variable_of, Settings.model_fields), "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def test_the_environment_sets_what_it_names(environ, tmp_path):
    for name, value in {"DATA": str(tmp_path), "MODELS": "~/weights", "SAVE_EVERY_S": "5", "COMPILE": "1"}.items():
        environ(f"STUDIO_{name}", value)
    found = Settings.from_env()
    assert (found.data, found.save_every_s, found.compile_blocks) == (tmp_path, 5.0, True)
    assert found.shared_models == Path.home() / "weights"


def test_every_field_has_its_variable(environ):
    texts = {Path: "/somewhere", int: "7", float: "7.5", str: "/base"}
    for field, info in Settings.model_fields.items():
        if field in ("allowed_hosts", "trusted_proxies"):
            continue
        text = texts.get(info.annotation, "1")
        environ(variable_of(field), text)
        value = getattr(Settings.from_env(), field)
        assert str(value) == {"1": "True"}.get(text, text), field


def test_names_and_networks_are_separated_by_commas(environ):
    environ("STUDIO_ALLOWED_HOSTS", "Studio.example, box,[fd00::1],192.168.1.5,")
    environ("STUDIO_TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8,fd00::/8")
    found = Settings.from_env()
    assert found.allowed_hosts == ("studio.example", "box", "[fd00::1]", "192.168.1.5")
    assert found.trusted_proxies == ("127.0.0.1/32", "10.0.0.0/8", "fd00::/8")


def test_an_empty_environment_sets_nothing(environ):
    environ("STUDIO_DATA", "")
    assert Settings.from_env() == Settings()
    assert (Settings().data, Settings().compile_blocks, Settings().offline) == (ROOT, None, False)


def test_the_constructor_reads_no_environment(environ, tmp_path):
    environ("STUDIO_DATA", str(tmp_path))
    assert Settings().data == ROOT


def test_a_switch_is_on_or_off(environ):
    environ("STUDIO_COMPILE", "0")
    assert Settings.from_env().compile_blocks is False


@pytest.mark.parametrize(("text", "offline"), [("1", True), ("yes", True), ("0", False), ("maybe", False)])
def test_the_hub_is_switched_off_by_its_own_variable(environ, text, offline):
    environ("HF_HUB_OFFLINE", text)
    assert Settings.from_env().offline is offline


def test_the_variable_of_the_studio_counts_before_that_of_the_hub(environ):
    environ("HF_HUB_OFFLINE", "1")
    environ("STUDIO_OFFLINE", "0")
    assert Settings.from_env().offline is False


@pytest.mark.parametrize(
    ("name", "value", "way_out"),
    [
        ("STUDIO_SAVE_EVERY_S", "often", "use a number of seconds from 0 on."),
        ("STUDIO_SAVE_EVERY_S", "-1", "use a number of seconds from 0 on."),
        ("STUDIO_SAVE_EVERY_S", "nan", "use a number of seconds from 0 on."),
        ("STUDIO_COMPILE", "yes", "use 0 or 1."),
        ("STUDIO_OFFLINE", "no", "use 0 or 1."),
        ("STUDIO_QUEUE_LIMIT", "0", "use a whole number from 1 on."),
        ("STUDIO_UPLOAD_LIMIT_BYTES", "500 MB", "use a whole number of bytes from 1 on."),
        ("STUDIO_ALLOWED_HOSTS", "*", "use host names without port, separated by commas."),
        ("STUDIO_ALLOWED_HOSTS", "a,b:8501", "use host names without port, separated by commas."),
        ("STUDIO_ALLOWED_HOSTS", "https://a", "use host names without port, separated by commas."),
        ("STUDIO_ALLOWED_HOSTS", "a b", "use host names without port, separated by commas."),
        ("STUDIO_TRUSTED_PROXIES", "*", "use IP addresses or networks, separated by commas."),
        ("STUDIO_TRUSTED_PROXIES", "proxy.example", "use IP addresses or networks, separated by commas."),
        ("STUDIO_TRUSTED_PROXIES", "10.0.0.1/8", "use IP addresses or networks, separated by commas."),
        ("STUDIO_DATA", "~nobody-of-this-name/films", "use the path of a folder."),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_variable_and_the_way_out(environ, name, value, way_out):
    environ(name, value)
    with pytest.raises(InvalidRequest) as refused:
        Settings.from_env()
    assert str(refused.value) == f"{name}={value} does not fit; {way_out}"


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        Settings().data = Path("/elsewhere")


def test_a_bare_python_finds_the_same_folders(environ, tmp_path):
    for named in (str(tmp_path), ""):
        environ("STUDIO_DATA", named)
        settings = Settings.from_env()
        folders = [settings.models, settings.outputs, settings.temp, settings.uploads]
        assert [utils.data_folder(ROOT) / name for name in utils.FOLDERS] == folders
