"""A server for faults that a real one can't be made to show quickly.

Answers /health at a port like vLLM's server. What it does wrong is told by its other arguments.
"""

import argparse
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

FOREVER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class Health(http.server.BaseHTTPRequestHandler):
    status = 200
    asked = threading.Event()

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()
        self.asked.set()

    def log_message(self, *_):
        pass


def say(text):
    sys.stdout.write(f"stand-in: {text}\n")
    sys.stdout.flush()


def fail(dies_after_s, ill_after_s):
    """Fail so many seconds after the first time that health was asked for."""
    Health.asked.wait()
    if dies_after_s is not None:
        time.sleep(dies_after_s)
        os.kill(os.getpid(), signal.SIGKILL)
    if ill_after_s is not None:
        time.sleep(ill_after_s)
        Health.status = 503


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--dies-at-start", action="store_true")
    parser.add_argument("--loads-for", type=float, default=0.0)
    parser.add_argument("--never-serves", action="store_true")
    parser.add_argument("--dies-after", type=float)
    parser.add_argument("--ill-after", type=float)
    parser.add_argument("--starts", type=Path, help="a line is added for each start")
    parser.add_argument("--well-from-start", type=int, default=0, help="faults before it only")
    parser.add_argument("--ignores-sigterm", action="store_true")
    parser.add_argument("--leaves-a-child", action="store_true")
    options = parser.parse_args()
    say("loading \x1b[31mweights\x1b[0m")
    starts = 1
    if options.starts is not None:
        with options.starts.open("a") as file:
            file.write(f"{os.getpid()} {time.monotonic()}\n")
        starts = len(options.starts.read_text().splitlines())
    faulty = not options.well_from_start or starts < options.well_from_start
    if options.ignores_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.leaves_a_child:
        subprocess.Popen([sys.executable, "-c", FOREVER], process_group=0)
    if options.dies_at_start:
        say("no memory left")
        sys.exit(3)
    time.sleep(600.0 if options.never_serves else options.loads_for)
    if faulty:
        failing = threading.Thread(
            target=fail, args=(options.dies_after, options.ill_after), daemon=True
        )
        failing.start()
    http.server.ThreadingHTTPServer(("127.0.0.1", options.port), Health).serve_forever()


if __name__ == "__main__":
    main()
