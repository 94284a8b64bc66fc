"""What the server hands to Streamlit."""

import pytest


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
def test_streamlit_is_configured_for_a_private_studio(doors, option, value):
    from streamlit import config

    assert config.get_option(option) == value
