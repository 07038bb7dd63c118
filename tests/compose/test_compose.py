"""`docker compose up`, for real: containers, scaled, with a replica killed in mid-training."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = "warren-test"
IMAGES = ("python:3.13-slim", "rabbitmq:4-management", "redis:8")


def compose_command():
    """Compose v2 if the client has it, else the program of its own; None where there is neither."""
    v2 = ["docker", "compose", "version"]
    if shutil.which("docker") and subprocess.run(v2, capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def why_not():
    """What keeps these tests from running here; "" if nothing does."""
    if shutil.which("docker") is None or compose_command() is None:
        return "there is no docker with compose here"
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        return "no Docker engine answers"
    for image in IMAGES:
        known = subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0
        if not known and subprocess.run(["docker", "pull", "-q", image], capture_output=True).returncode:
            return f"the image {image} is not here and cannot be pulled"
    return ""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    reason = why_not()
    if reason:
        pytest.skip(f"COMPOSE NOT TRIED: {reason}")
    folder = tmp_path_factory.mktemp("compose")
    for name in ("pyproject.toml", "README.md", "docker-compose.yml", ".dockerignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("coordinator", "worker", "shared", "deploy"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    # Other ports than the example's, so that what runs on this machine is not in the way.
    file = folder / "docker-compose.yml"
    text = file.read_text()
    for port in ("5672:5672", "15672:15672", "6379:6379"):
        text = text.replace(f'"127.0.0.1:{port}"', f'"127.0.0.1::{port.partition(":")[2]}"')
    file.write_text(text)
    yield folder
    compose(folder, "down", "--volumes", "--remove-orphans")


def compose(folder, *arguments, timeout=300):
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"} if compose_command() == ["docker-compose"] else None
    return subprocess.run(
        [*compose_command(), "-p", PROJECT, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def containers(folder):
    return compose(folder, "ps", "-q").stdout.split()


@pytest.mark.timeout(600)
def test_scaled_federation_outlives_a_replica_and_leaves_its_model(checkout, wait_for):
    built = compose(checkout, "build")
    assert built.returncode == 0, built.stderr
    up = compose(checkout, "up", "-d", "--scale", "site-a=3")
    assert up.returncode == 0, up.stderr
    history = checkout / "runs" / "example" / "history.jsonl"

    def rounds():
        return history.read_text().splitlines() if history.exists() else []

    wait_for(lambda: len(rounds()) > 2, timeout_s=120, what="rounds")
    replica = compose(checkout, "ps", "-q", "site-a").stdout.split()[0]
    subprocess.run(["docker", "kill", replica], check=True, capture_output=True)
    every = ["-a"] if compose_command()[0] == "docker" else []
    coordinator = compose(checkout, "ps", "-q", *every, "coordinator").stdout.split()[0]
    waited = subprocess.run(["docker", "wait", coordinator], capture_output=True, text=True, timeout=200)
    assert waited.stdout.strip() == "0", compose(checkout, "logs", "coordinator").stdout
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(31))
    assert all(line["accepted"] == 18 for line in lines[1:])
    assert (checkout / "runs" / "example" / "model.npz").exists()
    assert history.stat().st_uid != 0

    down = compose(checkout, "down", "--volumes")
    assert down.returncode == 0, down.stderr
    assert not containers(checkout)
    volumes = ["docker", "volume", "ls", "-q", "-f", f"name={PROJECT}"]
    left = subprocess.run(volumes, capture_output=True, text=True)
    assert not left.stdout.strip()
