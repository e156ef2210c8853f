"""Lets many clients use a service at once, with good and broken files, and watches what it loses, holds and leaves.

re2tal serve app/model --port 8000 --max-jobs 32 &
python scripts/load_test.py --pid $! --clients 8 --minutes 5 app/examples/*.mp4

Each client sends one video after another: a whole one, or one of the kinds in BROKEN. Of a job that is taken it waits
for the end, but now and then cancels it; one that is refused (429) it sends again after the seconds that the answer
says. A job is lost if its end is none of those that its file may have, or the service does not answer. With --pid, of
the service on this machine, memory is read from /proc: of it and of the processes below it, without what they share.
Prints JSON; ends with 1 where a job was lost, a good file was answered with different actions, or a file was left. Of a
service with --batch-size give --rounding: which windows share a batch changes scores and times by so much at the most.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests

KEYS = "RE2TAL_SERVE_KEYS"
WAIT = 30.0
PATIENCE = 600.0
SAMPLE_SECONDS = 2.0
THRESHOLD = 0.3


def broken(kind: str, video: bytes, rng: random.Random) -> bytes:
    """A file of a kind of BROKEN."""
    if kind == "cut":
        return video[: rng.randrange(1, len(video))]
    if kind == "damaged":
        content = bytearray(video)
        for _ in range(200):
            content[rng.randrange(len(content))] = rng.randrange(256)
        return bytes(content)
    return {"playlist": b"#EXTM3U\n/etc/hostname\n", "noise": rng.randbytes(50_000), "none": b""}[kind]


BROKEN = ("cut", "damaged", "playlist", "noise", "none", "broken off", "cancelled")


class Load:
    """Clients of a service, and what has become of their jobs."""

    def __init__(self, address: str, key: str | None, videos: list[bytes], end: float):
        self.address = address
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.videos = videos
        self.end = end
        self.counts: collections.Counter[str] = collections.Counter()
        self.lost: list[str] = []
        self.seconds: list[float] = []
        self.answers: dict[int, set[str]] = collections.defaultdict(set)
        self.lock = threading.Lock()

    def client(self, number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < self.end:
            which = rng.randrange(len(self.videos))
            kind = rng.choice(BROKEN) if rng.random() < 0.4 else "good"
            started = time.monotonic()
            try:
                outcome = self.job(kind, which, rng)
            except requests.RequestException as error:
                outcome = f"lost: {type(error).__name__}"
            with self.lock:
                self.counts[f"{kind}: {outcome}"] += 1
                if outcome.startswith("lost"):
                    self.lost.append(f"{kind}: {outcome}")
                elif kind == "good":
                    self.seconds.append(time.monotonic() - started)

    def job(self, kind: str, which: int, rng: random.Random) -> str:
        """Sends one file until it is taken; returns how that ended."""
        video = self.videos[which]
        content = video if kind in ("good", "cancelled", "broken off") else broken(kind, video, rng)
        if kind == "broken off":
            return self.broken_off(content)
        while True:
            answer = requests.post(
                f"{self.address}/v1/jobs?threshold={THRESHOLD}", data=content, headers=self.headers, timeout=PATIENCE
            )
            if answer.status_code != 429:
                break
            with self.lock:
                self.counts["refused for a while (429)"] += 1
            if time.monotonic() > self.end + PATIENCE:
                return "given up, refused to the end"
            time.sleep(float(answer.headers["Retry-After"]) * rng.uniform(0.5, 1.5))
        taken = time.monotonic()
        if kind == "none":
            return "refused" if answer.status_code == 422 else f"lost: {answer.status_code}"
        if answer.status_code not in (200, 202):
            return f"lost: {answer.status_code}"
        place = f"{self.address}{answer.headers['Location']}"
        if kind == "cancelled":
            time.sleep(rng.uniform(0, 1))
            state = requests.delete(place, headers=self.headers, timeout=PATIENCE).json()
            return state["status"] if state["status"] in ("cancelled", "done") else f"lost: {state['status']}"
        while True:
            state = requests.get(place, params={"wait": WAIT}, headers=self.headers, timeout=PATIENCE).json()
            if state.get("status") in ("done", "failed", "cancelled"):
                break
            if "status" not in state or time.monotonic() > taken + PATIENCE:
                return f"lost: {state.get('status', state.get('detail'))}"
        return self.judge(kind, which, state)

    def judge(self, kind: str, which: int, state: dict) -> str:
        """Whether a job ended as its file may."""
        if kind == "good":
            with self.lock:
                self.answers[which].add(json.dumps(state["actions"]))
            return "done" if state["status"] == "done" else f"lost: {state['status']}, {state['error']}"
        if kind in ("playlist", "noise"):
            return "failed" if state["status"] == "failed" else f"lost: {state['status']}"
        # A part of a file may be a video still.
        return state["status"] if state["status"] in ("done", "failed") else f"lost: {state['status']}"

    def broken_off(self, content: bytes) -> str:
        """Announces a whole file, sends half of it and hangs up."""
        parts = urlsplit(self.address)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
        # Of a queue that is full the answer comes at once.
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.putrequest("POST", "/v1/jobs")
            for name, value in {**self.headers, "Content-Length": str(len(content))}.items():
                connection.putheader(name, value)
            connection.endheaders(content[: len(content) // 2])
        return "sent by half"


def alike(one: str, other: str, rounding: float) -> bool:
    """Whether two answers have the same actions; those that score so little that rounding decides may be missing."""
    if one == other:
        return True
    rows, others = json.loads(one), json.loads(other)

    def has(actions: list[dict], row: dict) -> bool:
        near = (all(abs(row[key] - each[key]) <= rounding for key in ("score", "start", "end")) for each in actions
                if each["label"] == row["label"])  # fmt: skip
        return row["score"] < THRESHOLD + rounding or any(near)

    return all(has(others, row) for row in rows) and all(has(rows, row) for row in others)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text(encoding="utf-8")
        except OSError:
            continue
        parents[int(status.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, above in parents.items() if above == parent]
    return found


def memory(pid: int) -> float:
    """MiB that a process and those below it hold, of what they share each its part."""
    total = 0
    for one in family(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="utf-8")
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total / 1024


def left_files() -> list[str]:
    """Files of services in the folder for temporary ones."""
    found = Path(tempfile.gettempdir()).glob("re2tal-serve-*/**/*")
    return [str(path) for path in found if path.is_file()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, help="of the service, where it is on this machine")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rounding", type=float, default=0.0, help="of scores, and of seconds")
    parser.add_argument("videos", nargs="+")
    options = parser.parse_args()
    videos = [Path(path).read_bytes() for path in options.videos]
    load = Load(options.address, os.environ.get(KEYS), videos, time.monotonic() + 60 * options.minutes)
    clients = [threading.Thread(target=load.client, args=(number,)) for number in range(options.clients)]
    samples: list[float] = []
    begun = time.monotonic()
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        if options.pid:
            samples.append(memory(options.pid))
        time.sleep(SAMPLE_SECONDS)
    minutes = (time.monotonic() - begun) / 60
    time.sleep(SAMPLE_SECONDS)
    left = left_files() if options.pid else []
    different = [
        options.videos[which]
        for which, answers in load.answers.items()
        if not all(alike(one, other, options.rounding) for one, other in itertools.combinations(answers, 2))
    ]
    fifth = max(1, len(samples) // 5)
    report = {
        "clients": options.clients,
        "minutes": round(minutes, 1),
        "jobs": dict(sorted(load.counts.items())),
        "lost": load.lost,
        "good_seconds": {
            "median": round(statistics.median(load.seconds), 1) if load.seconds else None,
            "longest": round(max(load.seconds), 1) if load.seconds else None,
        },
        "different_actions": different,
        "memory_mib_by_fifths": [
            round(statistics.median(samples[first : first + fifth])) for first in range(0, fifth * 5, fifth)
        ]
        if len(samples) >= 5
        else samples,
        "memory_mib_peak": round(max(samples)) if samples else None,
        "files_left": left,
    }
    print(json.dumps(report, indent=2))
    return 1 if load.lost or different or left else 0


if __name__ == "__main__":
    sys.exit(main())
