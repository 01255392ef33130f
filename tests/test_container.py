"""The Dockerfile and the compose file: what they run and copy exists."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from reground.cli import app
from reground.errors import ConfigError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lines() -> list[str]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.fixture
def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    (only,) = found["services"].values()
    return dict(only)


def test_what_is_copied_and_installed_exists(lines: list[str]) -> None:
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    assert all((ROOT / name).exists() for names in copied for name in names)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"'\.\[(.+?)\]'", "\n".join(lines))
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    needed = {project["readme"], *project["license-files"]}
    assert needed <= {name for names in copied for name in names}


def test_the_command_is_one_and_takes_a_key(lines: list[str], service: dict[str, Any]) -> None:
    (entry,) = [line.partition(" ")[2] for line in lines if line.startswith("ENTRYPOINT")]
    program, *words = json.loads(entry)
    command = [re.sub(r"\$\{\w+:-(.+)\}", r"\1", word) for word in service["command"]]
    assert program == "reground"
    refused = CliRunner(env={"REGROUND_API_KEY": ""}).invoke(app, [*words, *command])
    assert isinstance(refused.exception, ConfigError)  # parsed, and refused without a key alone
    assert "host 0.0.0.0 can be reached by others; give --api-key" in str(refused.exception)
    assert "REGROUND_API_KEY" in service["environment"]


def test_ports_are_the_servers_and_this_machines(lines: list[str], service: dict[str, Any]) -> None:
    assert "EXPOSE 8000" in lines and service["ports"] == ["127.0.0.1:8000:8000"]
    args = {line.split()[1].partition("=")[0] for line in lines if line.startswith("ARG")}
    assert set(service["build"]["args"]) == args
