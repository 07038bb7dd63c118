"""RabbitMQ loses what it had confirmed: its data is put back to what it was some rounds ago, in mid-run."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def urls(own_rabbit_node, redis_url):
    return ["--broker", own_rabbit_node.url, "--state", redis_url]


@pytest.mark.timeout(300)
def test_broker_put_back_to_older_data_costs_time_only(fed, make_fed, own_rabbit_node, wait_for, tmp_path):
    tables = {"federation": {"rounds": 24}, "server": {"optimizer": "fedadam", "learning_rate": 0.05}}
    calm = make_fed(fed.name, [])
    assert calm.run(calm.write([calm.site(name) for name in ("a", "b")], **tables)).returncode == 0

    run = fed.start(fed.write([fed.site(name, trainer="Slow", pause_s=0.3) for name in ("a", "b")], **tables))
    data, kept = own_rabbit_node.data, tmp_path / "kept"
    wait_for(lambda: len(fed.history()) > 12, timeout_s=60, what="some rounds")
    own_rabbit_node.kill()
    shutil.copytree(data, kept)
    own_rabbit_node.start()
    wait_for(lambda: len(fed.history()) > 16, timeout_s=90, what="more rounds")
    own_rabbit_node.kill()
    shutil.rmtree(data)
    shutil.copytree(kept, data)
    own_rabbit_node.start()

    result = fed.done(run)
    assert result.returncode == 0, result.stderr
    assert "lost its end" in result.stderr
    assert "Traceback" not in result.stderr
    assert [line["accepted"] for line in fed.history()[1:]] == [2] * 24
    assert fed.history()[-1]["digest"] == calm.history()[-1]["digest"]
    assert [line["digest"] for line in fed.versions()] == [line["digest"] for line in calm.versions()]
