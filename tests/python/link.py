"""A network between the agents that can be made worse while a run is going on: slow, late, cut, half-open, or leading elsewhere.

    link = Link()
    with Pair(through=link.to) as pair:
        link.rate = 2_000_000        # bytes a second, both directions together
        link.delay_s = 0.05          # each way
        link.stall(); link.heal()    # connections stay and nothing passes
        link.cut()                   # every connection is reset; new ones are accepted
        link.down = True             # new ones are reset as well
"""

import select
import socket
import struct
import threading
import time

PIECE_BYTES = 16 << 10
POLL_S = 0.05


class Link:
    def __init__(self):
        self.rate = None
        self.delay_s = 0.0
        self.down = False
        self.bytes_passed = 0
        self._target = None
        self._flows = threading.Event()
        self._flows.set()
        self._closed = False
        self._lock = threading.Lock()
        self._sockets = set()
        self._free_at = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, name="link", daemon=True).start()

    def to(self, port):
        """New connections lead to this port from now on; the URL of the link."""
        self._target = port
        return self.url

    def stall(self):
        self._flows.clear()

    def heal(self):
        self._flows.set()

    def cut(self):
        """Resets every connection, as a firewall does; what was on its way is lost."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for each in sockets:
            try:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()

    def close(self):
        self._closed = True
        self.heal()
        self._listener.close()
        self.cut()

    def _accept(self):
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                near.close()
                continue
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near):
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._sockets |= {near, far}
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source, target):
        try:
            while not self._closed:
                readable, _, _ = select.select([source], [], [], POLL_S)
                if not readable:
                    continue
                piece = source.recv(PIECE_BYTES)
                if not piece:
                    break
                self._wait_for_turn(len(piece))
                if self.delay_s:
                    time.sleep(self.delay_s)
                self._flows.wait()
                target.sendall(piece)
        except (OSError, ValueError):
            pass
        # Whichever side closes, the other one hears of it.
        for each in (source, target):
            with self._lock:
                self._sockets.discard(each)
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()

    def _wait_for_turn(self, count):
        with self._lock:
            self.bytes_passed += count
            if not self.rate:
                return
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self.rate
            wait = self._free_at - now
        time.sleep(max(0.0, wait))
