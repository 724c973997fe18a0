"""What an integration says where its tool is not installed."""

import importlib
import sys

import pytest

TOOLS = {
    "lightning": "lightning.pytorch.callbacks",
    "pytorch_lightning": "pytorch_lightning.callbacks",
    "transformers": "transformers",
}


@pytest.mark.parametrize("tool", TOOLS)
def test_without_its_tool_the_error_says_what_to_install(monkeypatch, tool):
    monkeypatch.setitem(sys.modules, TOOLS[tool], None)
    monkeypatch.delitem(sys.modules, f"polyak.integrations.{tool}", raising=False)
    said = rf"needs the package '{tool}', which is not installed; .* Run `pip install"
    with pytest.raises(ImportError, match=said):
        importlib.import_module(f"polyak.integrations.{tool}")


def test_the_module_for_accelerate_needs_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delitem(sys.modules, "polyak.integrations.accelerate", raising=False)
    importlib.import_module("polyak.integrations.accelerate")
