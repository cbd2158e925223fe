"""A process that beats with the stock Python client: the counterpart of stock-agent.rs, with fewer commands.

usage: stock_agent.py (--dir DIR | --socket PATH) [--period-ms N] [--reconnect-after N]

It prints `up PID` once connected and answers every command with one line: report, quiet, go, panic (an
unhandled exception), fork, move PATH, exit N. It exits at the end of its standard input, and with its
parent.
"""

import argparse
import ctypes
import json
import os
import select
import signal
import sys
import time

import varta

PR_SET_PDEATHSIG = 1


def follow_parent():
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def socket_for(directory, key):
    """Finds the socket of a key as the guide describes it for any language."""
    with open(os.path.join(directory, "fleet.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    assert manifest["version"] == 1 and manifest["hash"] == "fibonacci32", manifest
    shards = manifest["shards"]
    socket = shards[((key * 0x9E3779B1 & 0xFFFFFFFF) * len(shards)) >> 32]["socket"]
    return os.path.join(directory, socket)


class Agent:
    def __init__(self, path, period, reconnect_after):
        self.path = path
        self.period = period
        self.reconnect_after = reconnect_after
        self.is_quiet = False
        self.sent = self.dropped = self.failed = 0
        self.last_try = None
        self.longest_gap = 0.0
        self.buffer = b""
        self.connect()
        varta.panic.install_excepthook_uds(path)

    def connect(self):
        self.handle = varta.Varta.connect(self.path)
        self.handle.set_reconnect_after(self.reconnect_after)

    def live(self, is_deaf=False):
        due = time.monotonic()
        while True:
            wait = None if self.is_quiet else max(0.0, due - time.monotonic())
            if select.select([] if is_deaf else [0], [], [], wait)[0]:
                read = os.read(0, 4096)
                if not read:
                    return
                *lines, self.buffer = (self.buffer + read).split(b"\n")
                for line in lines:
                    self.obey(*line.decode().split())
            now = time.monotonic()
            if not self.is_quiet and now >= due:
                self.beat()
                due = max(due + self.period, now)

    def beat(self):
        outcome = self.handle.beat(varta.Status.OK)
        self.sent += outcome.is_sent
        self.dropped += outcome.is_dropped
        self.failed += outcome.is_failed
        now = time.monotonic()
        if self.last_try is not None:
            self.longest_gap = max(self.longest_gap, now - self.last_try)
        self.last_try = now

    def obey(self, command, argument=None):
        if command == "report":
            gap = max(self.longest_gap, time.monotonic() - self.last_try if self.last_try else 0.0)
            say(f"report sent={self.sent} dropped={self.dropped} failed={self.failed} gap-ms={int(gap * 1000)}")
        elif command in ("quiet", "go"):
            self.is_quiet = command == "quiet"
            say(command)
        elif command == "panic":
            raise RuntimeError("told to")
        elif command == "fork":
            child = os.fork()
            if child == 0:
                follow_parent()
                self.live(is_deaf=True)
            say(f"forked {child}")
        elif command == "move":
            self.path = argument
            self.connect()
            say(f"move {argument}")
        elif command == "exit":
            sys.exit(int(argument))
        else:
            raise ValueError(f"{command} is no command")


def say(line):
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser()
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--dir")
    place.add_argument("--socket")
    parser.add_argument("--period-ms", type=int, default=100)
    parser.add_argument("--reconnect-after", type=int, default=0)
    args = parser.parse_args()
    follow_parent()
    agent = Agent(
        args.socket or socket_for(args.dir, os.getpid()), args.period_ms / 1000, args.reconnect_after
    )
    say(f"up {os.getpid()}")
    agent.live()


if __name__ == "__main__":
    main()
