"""A service manager for tests: starts a program, takes its notifications, keeps the descriptors that it stores, and
passes them to the next start, as sd_notify(3) and sd_listen_fds(3) describe.

usage: keeper.py NOTIFY_SOCKET PROGRAM [ARG...]

Standard input takes one command a line, and each is answered by one line:

  start          starts the program; answered by `ready PID` once it is, or by `exited STATUS`
  end SIGNAL     sends it the signal, by number; answered by `exited STATUS` (negative: by that signal)
  stored         answered by the names of the kept descriptors, each as often as it is kept
  drop NAME      forgets the descriptors of this name; answered by `dropped`
  spoil NAME     overwrites the begin of the memory of this name; answered by `spoilt`

It ends at the end of its input, and the program with it.
"""

import array
import os
import select
import signal
import socket
import sys

notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(sys.argv[1])
program = sys.argv[2:]
store = []  # (name, descriptor)
child = None


def same(one, other):
    return os.path.sameopenfile(one, other)


def take_notification():
    """Returns the lines of one message; keeps or forgets descriptors as it says."""
    data, ancillary, _flags, _from = notify.recvmsg(1 << 16, socket.CMSG_SPACE(64 * 4))
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    lines = data.decode().splitlines()
    values = dict(line.split("=", 1) for line in lines)
    name = values.get("FDNAME", "stored")
    if values.get("FDSTOREREMOVE") == "1":
        forget(name)
    for fd in fds:
        if values.get("FDSTORE") == "1" and not any(same(fd, kept) for _, kept in store):
            store.append((name, fd))
        else:
            os.close(fd)
    return lines


def forget(name):
    for kept in [entry for entry in store if entry[0] == name]:
        store.remove(kept)
        os.close(kept[1])


def start():
    global child
    child = os.fork()
    if child == 0:
        # Above the numbers that they are moved to.
        high = [os.dup2(os.dup(fd), 500 + index, False) for index, (_, fd) in enumerate(store)]
        for index, fd in enumerate(high):
            os.dup2(fd, 3 + index, True)
            os.close(fd)
        environment = dict(os.environ, NOTIFY_SOCKET=sys.argv[1])
        if store:
            environment["LISTEN_PID"] = str(os.getpid())
            environment["LISTEN_FDS"] = str(len(store))
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in store)
        devnull = os.open("/dev/null", os.O_RDONLY)
        os.dup2(devnull, 0, True)
        os.dup2(2, 1, True)
        os.execve(program[0], program, environment)
    pidfd = os.pidfd_open(child)
    waiting = select.poll()
    waiting.register(notify, select.POLLIN)
    waiting.register(pidfd, select.POLLIN)
    while True:
        ready = dict(waiting.poll())
        if notify.fileno() in ready:
            if "READY=1" in take_notification():
                os.close(pidfd)
                return f"ready {child}"
        elif pidfd in ready:
            os.close(pidfd)
            return ended()


def ended():
    global child
    _, status = os.waitpid(child, 0)
    child = None
    # What it sent before its end counts.
    while select.select([notify], [], [], 0)[0]:
        take_notification()
    return f"exited {os.waitstatus_to_exitcode(status)}"


def spoil(name):
    for kept, fd in store:
        if kept == name:
            os.pwrite(fd, b"\xff" * 64, 0)
    return "spoilt"


def obey(command, *words):
    if command == "start":
        return start()
    if command == "end":
        os.kill(child, int(words[0]))
        return ended()
    if command == "stored":
        return " ".join(sorted(name for name, _ in store))
    if command == "drop":
        forget(words[0])
        return "dropped"
    if command == "spoil":
        return spoil(words[0])
    raise SystemExit(f"keeper.py: no such command: {command}")


try:
    buffer = b""
    while True:
        readable, _, _ = select.select([0, notify], [], [])
        if notify in readable:
            take_notification()
        if 0 in readable:
            chunk = os.read(0, 4096)
            if not chunk:
                break
            buffer += chunk
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                print(obey(*line.decode().split()), flush=True)
finally:
    if child is not None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
