"""A daemon that speaks the protocol of sd_notify(3). It does what each line of its input says, and answers `done`.

send TEXT      sends a message; \\n in TEXT is a line end
beat SECONDS   sends WATCHDOG=1 now and every so many seconds from now on; 0: not any more
barrier        sends a barrier and waits until it is answered
end CODE       exits
"""

import os
import socket
import sys
import threading

sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
barriers = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
barriers.connect(os.environ["NOTIFY_SOCKET"])


def send(text):
    sender.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


period, changed = [0.0], threading.Condition()


def beats():
    while True:
        with changed:
            changed.wait(period[0] or None)
            if period[0]:
                send("WATCHDOG=1")


threading.Thread(target=beats, daemon=True).start()
print(os.getpid(), flush=True)
for line in sys.stdin:
    command, _, argument = line.rstrip("\n").partition(" ")
    if command == "send":
        send(argument.replace("\\n", "\n"))
    elif command == "beat":
        with changed:
            period[0] = float(argument)
            changed.notify()
    elif command == "barrier":
        reader, writer = os.pipe()
        socket.send_fds(barriers, [b"BARRIER=1"], [writer])
        os.close(writer)
        assert os.read(reader, 1) == b""
        os.close(reader)
    elif command == "end":
        os._exit(int(argument))
    print("done", flush=True)
