"""The modules of the components: at an address of their own, and nothing but them."""

import pytest

from ui.components import MODULES, VERSION


def test_a_module_is_kept_by_browsers_for_good(client):
    for module in MODULES:
        answer = client.get(f"/app/static/components/{VERSION}/{module.name}")
        assert answer.content == module.read_bytes()
        assert answer.headers["content-type"].startswith("text/javascript")
        assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize("name", ["nothing.js", "package.json", "base.css", "node_modules"])
def test_no_other_file_is_served(client, name):
    assert client.get(f"/app/static/components/{VERSION}/{name}").status_code == 404
