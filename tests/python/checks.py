"""Counts what a suite checked, and prints the closing line 'N passed, N failed' that ./test adds up.

A check is a sentence; one that fails prints what it saw and the suite goes on, so that one run tells all that is wrong. An exception
inside a section is a failed check of its own, with its traceback.
"""

import contextlib
import sys
import time
import traceback


class Checks:
    def __init__(self):
        self.passed = 0
        self.failed = 0
        self._start = time.monotonic()

    def check(self, sentence, ok, saw=""):
        """Counts one check; `saw` is printed with it, and should say enough to begin a search."""
        if ok:
            self.passed += 1
        else:
            self.failed += 1
        suffix = f": {saw}" if saw != "" else ""
        print(f"  {'ok    ' if ok else 'FAILED'} {sentence}{suffix}", flush=True)
        return bool(ok)

    @contextlib.contextmanager
    def section(self, title, needed=False):
        """A part of the suite. What goes wrong in it is counted, and the next part still runs; without a part that is `needed` the suite
        ends there, with its closing line."""
        print(f"-- {title}", flush=True)
        started = time.monotonic()
        try:
            yield
        except Exception:
            self.failed += 1
            print(f"  FAILED {title}\n{traceback.format_exc()}", flush=True)
            if needed:
                sys.exit(self.finish())
        print(f"   ({time.monotonic() - started:.1f} s)", flush=True)

    def skip(self, sentence):
        """Ends the suite without a check, so that nobody takes it for one that passed."""
        print(f"SKIPPED: {sentence}")
        print("0 passed, 0 failed", flush=True)
        sys.exit(0)

    def finish(self):
        """Prints the closing line; the exit code of the suite."""
        print(f"took {time.monotonic() - self._start:.1f} s")
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 1 if self.failed or not self.passed else 0
