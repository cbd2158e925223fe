"""An agent in Python, with the standard library alone: protocol VLP, or sd_notify if NOTIFY_SOCKET is set.

VARTA_DIR is the runtime directory, by default /run/varta; it beats twice per WATCHDOG_USEC, by default a second.
"""
import json, os, re, socket, struct, time


def send(path, datagram):
    """Sends a datagram and does not wait; False if it is dropped: no observer, a full queue. A socket for each datagram
    survives forks and whoever closes descriptors, and finds an observer that was restarted."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            one.sendto(datagram, path)
            return True
    except OSError:
        return False


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


class Agent:
    def __init__(self, directory="/run/varta"):
        self.directory, self.nonce, self.start = directory, 0, time.monotonic_ns()

    def find(self):
        with open(os.path.join(self.directory, "fleet.json")) as file:
            shards = json.load(file)["shards"]
        shard = (os.getpid() * 2654435761 & 4294967295) * len(shards) >> 32
        return os.path.join(self.directory, shards[shard]["socket"])

    def beat(self, status=0, payload=0):  # 0 ok, 1 degraded, 2 critical
        self.nonce += 1
        at = time.monotonic_ns() - self.start
        frame = struct.pack("<2sBBIQQI", b"VA", 2, status, os.getpid(), at, self.nonce, payload & 4294967295)
        try:
            send(self.find(), frame + struct.pack("<I", crc32c(frame)))
        except (OSError, ValueError):
            pass  # no observer


agent = Agent(os.environ.get("VARTA_DIR", "/run/varta"))
period = int(os.environ.get("WATCHDOG_USEC", "1000000")) / 2_000_000
notify_socket, message, done = os.environ.get("NOTIFY_SOCKET"), b"READY=1\nWATCHDOG=1", 0
while True:
    time.sleep(period)  # the work
    done += 1
    if notify_socket is None:
        agent.beat(payload=done)
    elif send(re.sub("^@", "\0", notify_socket), message):
        message = b"WATCHDOG=1"
