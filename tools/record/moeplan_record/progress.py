"""One line on stderr that says how far a recording is. Only on terminals, at most five times a second."""
import sys
import time


class Progress:
    def __init__(self, n_requests=None, stream=None, wanted=True):
        self.stream = stream if stream is not None else sys.stderr
        self.is_shown = wanted and self.stream.isatty()
        self.n_requests, self.start, self.last, self.width = n_requests, time.monotonic(), 0.0, 0

    def show(self, n_tokens, n_done, now=None):
        now = time.monotonic() if now is None else now
        if not self.is_shown or now - self.last < 0.2:
            return
        self.last = now
        seconds = max(now - self.start, 1e-9)
        text = f"recorded {n_tokens:,} tokens, {n_tokens / seconds:,.0f} tokens/s"
        if self.n_requests:
            text += f", {n_done:,} of {self.n_requests:,} requests"
            if 0 < n_done < self.n_requests:
                left = seconds / n_done * (self.n_requests - n_done)
                text += f", {left / 60:.0f} min left" if left >= 90 else f", {left:.0f} s left"
        self._write(text)

    def chunk(self, done, all_):
        if self.is_shown:
            self._write(f"writing chunk {done:,} of {all_:,}")

    def _write(self, text):
        self.stream.write("\r" + text.ljust(self.width))
        self.stream.flush()
        self.width = len(text)

    def end(self):
        if self.is_shown and self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.stream.flush()
            self.width = 0
