"""Nodes that tests share where they do no harm, and own where they do."""

import itertools
import os
import re

import pytest

from ledger import BINARY, Cluster, Node

_number = itertools.count(1)


def pytest_report_header(config):
    return f"binary: {BINARY}"


def pytest_sessionstart(session):
    if not os.access(BINARY, os.X_OK):
        raise pytest.UsageError(f"CONVERGE_BIN does not name a program: {BINARY}; run tests/conformance/run.sh")


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """One node alone, shared: tests keep to their own context."""
    node = Node(tmp_path_factory.mktemp("node")).start()
    yield node
    node.kill()


@pytest.fixture(scope="session")
def other_node(tmp_path_factory):
    """A ledger that knows nothing of the first one."""
    node = Node(tmp_path_factory.mktemp("other")).start()
    yield node
    node.kill()


@pytest.fixture(scope="session")
def trio(tmp_path_factory):
    """Three nodes that no test harms."""
    cluster = Cluster(tmp_path_factory.mktemp("trio")).start()
    yield cluster
    cluster.kill()


@pytest.fixture
def clusters(tmp_path):
    """Makes clusters that a test may kill."""
    made = []

    def make(**options):
        made.append(Cluster(tmp_path / f"cluster{len(made)}", **options))
        return made[-1].start()

    yield make
    for cluster in made:
        cluster.kill()


@pytest.fixture
def nodes(tmp_path):
    """Makes nodes that a test may kill; not started."""
    made = []

    def make(**options):
        made.append(Node(tmp_path / f"node{len(made)}", **options))
        return made[-1]

    yield make
    for node in made:
        node.kill()


@pytest.fixture
def ledger(node):
    client = node.client()
    yield client
    client.channel.close()


@pytest.fixture
def context(request):
    """A context of this test alone."""
    return f"{re.sub(r'[^a-z0-9_]+', '-', request.node.name.lower())}-{next(_number)}"
