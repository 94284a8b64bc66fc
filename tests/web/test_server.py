"""What the server hands to Streamlit."""

import pytest

from backend.web.server import page_failed


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("runner.postScriptGC", False),  # a full collection after each poll would stall the render
        ("browser.gatherUsageStats", False),
        ("server.fileWatcherType", "none"),  # saving a file must not make a second manager
        ("server.allowedHosts", ["localhost", "127.0.0.1"]),
        ("server.address", "127.0.0.1"),
        ("client.showErrorDetails", "type"),
    ],
)
def test_streamlit_is_configured_for_a_private_studio(shared_client, option, value):
    from streamlit import config

    assert config.get_option(option) == value


def test_a_page_that_fails_is_in_the_log_and_says_so(monkeypatch, caplog):
    import streamlit

    said = []
    monkeypatch.setattr(streamlit, "error", lambda words, **_: said.append(words))
    assert page_failed(KeyError("surprise"))
    assert "the reason is in outputs/studio.log" in said[0]
    assert "KeyError: 'surprise'" in caplog.text
