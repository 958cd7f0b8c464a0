"""A disk of a few MiB (a tmpfs), mounted on a directory, that can be filled and emptied. Mounting needs permission: `SmallDisk.allowed()` says
why it is not there, if it is not."""

import os
import pathlib
import subprocess
import tempfile


class SmallDisk:
    """`with SmallDisk(path, mib):` the directory is a disk of its own meanwhile."""

    def __init__(self, path, mib):
        self.path = pathlib.Path(path)
        self.mib = mib
        self._ballast = self.path / "ballast"

    @staticmethod
    def allowed():
        """The reason why no disk can be mounted; empty if one can."""
        if os.geteuid() != 0:
            return "only root may mount a tmpfs"
        with tempfile.TemporaryDirectory(prefix="strait-disk.") as folder:
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
            if done.returncode:
                return f"mount says: {done.stderr.strip()}"
            subprocess.run(["umount", folder], check=True)
        return ""

    def __enter__(self):
        self.path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.mib}m", "tmpfs", self.path], check=True)
        return self

    def __exit__(self, *_):
        # Lazily, since an agent that did not end may still have a file open.
        subprocess.run(["umount", "-l", self.path], check=True)

    def free_bytes(self):
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def fill(self, leave_bytes=0):
        """Takes all room but this, with a file that is nobody's."""
        with open(self._ballast, "ab", buffering=0) as ballast:
            while (room := self.free_bytes() - leave_bytes) > 0:
                try:
                    ballast.write(bytes(min(room, 1 << 20)))
                except OSError:
                    break

    def make_room(self):
        self._ballast.unlink(missing_ok=True)
