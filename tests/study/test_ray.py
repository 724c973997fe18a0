"""A real Ray cluster of several nodes on this machine. Its parts talk over the loopback only."""

import json
import os
import signal
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from polyak.averaging import load as load_weights
from polyak.data import prepare
from polyak.errors import ConfigError
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.study.executors.local import LocalExecutor
from polyak.study.executors.ray import connected
from polyak.study.runner import run_study

# As Ray does on macOS and Windows. Before it is imported: it asks only once.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Beside other tests, workers that give way to all others take for ever.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (its name)
pytest.importorskip("ray", reason="the extra polyak[ray] is not installed")

# Ray leaves sockets and log files to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NODE = {
    "num_cpus": 1,
    "object_store_memory": 80 * 2**20,
    "include_dashboard": False,
    "node_ip_address": "127.0.0.1",
}


@contextmanager
def cluster_of(nodes):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(wait=False, **NODE)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


class KillsANode:
    """Kills, once, a node that is not the head in the middle of a run that has a checkpoint."""

    def __init__(self, cluster, out):
        self.cluster, self.out = cluster, out
        self.killed = None
        self.before = []
        """Records of the killed run, as they were."""

    def __call__(self, progress):
        for name, state in progress.states.items():
            if self.killed is None and state == "running":
                self.kill(name)

    def kill(self, name):
        folder = run_folder(self.out, name)
        lock = folder.path / "LOCK"
        if folder.ending is None and lock.exists() and _epochs_in_checkpoint(folder):
            pid = json.loads(lock.read_text())["pid"]
            nodes = [n for n in self.cluster.worker_nodes if _raylet(n) == _parent(pid)]
            if nodes:
                os.kill(pid, signal.SIGSTOP)
                self.before = folder.epochs()[: _epochs_in_checkpoint(folder)]
                self.killed = name
                self.cluster.remove_node(nodes[0], allow_graceful=False)
                os.kill(pid, signal.SIGKILL)


def _epochs_in_checkpoint(folder):
    newest = max(folder.checkpoints.glob("at-*"), default=None)
    return 0 if newest is None else int(newest.name.split("-")[1])


def _raylet(node):
    return node.all_processes["raylet"][0].process.pid


def _parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@pytest.mark.long
def test_a_study_that_loses_a_node_ends_as_on_one_machine(study, row, tmp_path):
    longer = replace(study, rows=(replace(row, config=replace(row.config, epochs=4)),))
    out, alone = tmp_path / "ray", tmp_path / "alone"
    with cluster_of(4) as cluster, connected(cluster.address, checkpoint_seconds=0) as executor:
        assert executor.workers == 4
        kills = KillsANode(cluster, out)
        outcome = run_study(
            longer, out, executor=executor, on_progress=kills, workers=4, command="x"
        )
    assert kills.killed is not None
    assert (outcome.done, outcome.failures, outcome.row_failures) == (7, {}, {})
    # The lost run went on from its checkpoint: what was done before was not done again.
    assert run_folder(out, kills.killed).epochs()[: len(kills.before)] == kills.before
    local = LocalExecutor(workers=1)
    run_study(
        longer, alone, executor=local, on_progress=lambda progress: None, workers=4, command="x"
    )
    one, other = (read_study(folder / "small") for folder in (out, alone))
    assert replace(one, seconds=0.0) == replace(other, seconds=0.0)
    names = sorted(path.name for path in (out / "runs").iterdir())
    assert names == sorted(path.name for path in (alone / "runs").iterdir())
    for name in names:
        assert _result(run_folder(out, name)) == _result(run_folder(alone, name))


def test_runs_that_are_stopped_write_a_checkpoint_and_failures_are_told_apart(row, tmp_path):
    """On a Ray of this machine alone, which nobody started before."""
    tiny = replace(row.config, data=prepare(row.config.data))
    long = replace(tiny, epochs=2000)
    fault = replace(tiny, data=replace(tiny.data, fingerprint="0" * 64))
    folder = run_folder(tmp_path, long.id)

    def interrupt(states):
        if folder.epochs():
            assert states == {long.id: "running"}
            raise KeyboardInterrupt

    with connected(None, cpus=0.5) as executor:
        assert executor.workers >= 2
        ticks = []
        failures = executor([tiny, fault], tmp_path, ticks.append)
        assert failures.keys() == {fault.id}
        assert failures[fault.id].startswith("source 'digits' is not in the cache")
        assert ticks[-1] == {tiny.id: "done", fault.id: "failed"}
        with pytest.raises(KeyboardInterrupt):
            executor([long], tmp_path, interrupt)
    assert run_folder(tmp_path, tiny.id).ending == "done"
    assert folder.ending is None
    assert not (folder.path / "LOCK").exists()
    (written,) = folder.checkpoints.glob("at-*")
    assert written.stem >= f"at-{len(folder.epochs()):04}"


def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("ray.init", _nobody)
    with pytest.raises(ConfigError, match="address is 'nowhere:1', where no Ray cluster answers"):
        connected("nowhere:1").__enter__()


@pytest.mark.parametrize("address", ["nowhere.invalid:1", "127.0.0.1:1"])
def test_an_address_where_nobody_listens_is_refused_without_ray_asking_for_minutes(address):
    with pytest.raises(ConfigError, match=f"address is '{address}', where no Ray cluster answers"):
        connected(address).__enter__()


def test_a_machine_that_belongs_to_no_cluster_is_told(monkeypatch):
    monkeypatch.setattr("ray.init", _nobody)
    with pytest.raises(ConfigError, match=r"address is 'auto', where .* answers \(refused\)"):
        connected("auto").__enter__()


def _nobody(*_arguments, **_settings):
    raise ConnectionError("refused")


def _result(folder):
    """All that a run left, to the bit, but for the time it took."""
    files = sorted(str(p.relative_to(folder.path)) for p in folder.path.rglob("*") if p.is_file())
    predictions = Predictions(folder.predictions)
    found = {
        "files": files,
        "config": folder.config(),
        "epochs": [asdict(replace(record, seconds=0.0)) for record in folder.epochs()],
        "ending": {**folder.facts(), "seconds": 0.0},
    }
    for arm in predictions.arms("test"):
        found[arm] = predictions.logits_nk("test", arm).numpy().tobytes()
        if folder.arm(arm).exists():
            weights = load_weights(folder.arm(arm))[arm]
            found[f"{arm} weights"] = {k: x.numpy().tobytes() for k, x in weights.items()}
    return found
