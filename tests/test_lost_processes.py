"""What processes of a run notice of each other's end."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from re2tal_hf.training import lost_processes
from re2tal_hf.training.lost_processes import Watch, tells_of_loss

# A process waits in one network for another, in a second one, whose cable is then pulled.
TWO_HOSTS = """
set -e
ip link set lo up
unshare -n sleep 120 & other=$!
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.1; done
ip link add here type veth peer name there netns $other
ip address add 10.77.0.1/24 dev here; ip link set here up
nsenter -t $other -n ip address add 10.77.0.2/24 dev there; nsenter -t $other -n ip link set there up
"$PYTHON" "$SCRIPT" 0 > first.txt 2>&1 & first=$!
nsenter -t $other -n "$PYTHON" "$SCRIPT" 1 > second.txt 2>&1 & second=$!
while [ ! -e met ]; do sleep 0.1; kill -0 $first $second; done
ip link set here down
for process in $first $second; do wait $process && echo 0 || echo $?; done
kill $other
"""
WAITS = """
import os, sys, time
from datetime import timedelta
import torch.distributed as dist
from re2tal_hf.training.lost_processes import Watch
os.environ["MASTER_ADDR"] = "10.77.0.1"
rank = int(sys.argv[1])
store = dist.TCPStore("10.77.0.1", 29511, 2, rank == 0, timedelta(seconds=60), wait_for_workers=False)
watch = Watch(store, rank, 2)
if rank:
    open("met", "w").close()
time.sleep(100)
"""


@pytest.fixture
def store(monkeypatch) -> Iterator[dist.Store]:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(lost_processes, "SECONDS_TO_END", 1e6)
    watches: list[Watch] = []

    def kept(watch, *arguments):
        watches.append(watch)
        begin(watch, *arguments)

    begin = Watch.__init__
    monkeypatch.setattr(Watch, "__init__", kept)
    yield dist.HashStore()
    for watch in watches:  # one that learns of a loss after its test would end the tests
        watch.end()


def cut(watch: Watch) -> None:
    """As the system does where a process is killed."""
    for connection in watch._connections:
        connection.shutdown(socket.SHUT_RDWR)


def test_a_process_that_ends_is_named_to_all(store):
    first, second, third = (Watch(store, rank, 3) for rank in range(3))
    assert first.token == second.token == third.token
    cut(second)
    for watch in (first, third):
        assert watch.lost_process(10).startswith("process 1 on ")


def test_a_process_that_is_done_is_not_missed(store):
    first, second = (Watch(store, rank, 2) for rank in range(2))
    second.end()
    cut(second)
    assert first.lost_process(0.2) == ""
    first.end()


def test_after_a_restart_the_first_process_of_before_is_not_taken_for_the_new_one(store, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    store.set("watch", f"{port} of_before")
    sleeps = []

    def start_first(seconds):
        monkeypatch.undo()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        sleeps.append((seconds, Watch(store, 0, 2)))

    monkeypatch.setattr(lost_processes.time, "sleep", start_first)
    second = Watch(store, 1, 2)
    [(_, first)] = sleeps
    assert second.token == first.token != "of_before"
    for watch in (first, second):
        watch.end()


def test_strangers_are_not_listened_to(store):
    first = Watch(store, 0, 2)
    port = int(store.get("watch").decode().split()[0])
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"wrong process 1\n")
        assert stranger.recv(1) == b""
    assert first.lost_process(0.1) == ""


def test_errors_of_collectives_are_told_from_others():
    assert tells_of_loss(RuntimeError("[/x/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.2]:3392"))
    assert tells_of_loss(dist.DistBackendError("NCCL error"))
    assert not tells_of_loss(RuntimeError("shapes differ")) and not tells_of_loss(ConnectionResetError("of the Hub"))


@pytest.mark.training
def test_a_host_whose_network_is_gone_is_noticed_by_both(tmp_path):
    tools = all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip"))
    if not tools or subprocess.run(["unshare", "-rn", "ip", "link", "add", "type", "veth"]).returncode:
        pytest.skip("no networks of one's own here")
    (tmp_path / "waits.py").write_text(WAITS, encoding="utf-8")
    environment = os.environ | {
        "PYTHON": sys.executable,
        "SCRIPT": str(tmp_path / "waits.py"),
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    }
    command = ["unshare", "-rn", "bash", "-c", TWO_HOSTS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    ends = [(tmp_path / name).read_text(encoding="utf-8") for name in ("first.txt", "second.txt")]
    assert done.stdout.split() == ["1", "1"], (done.stderr, ends)
    assert "error: process 1 on " in ends[0] and "error: process 0 on " in ends[1]
    assert all("Start all processes again by the same command." in text for text in ends)
