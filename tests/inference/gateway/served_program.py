"""The program ``pyramid-moa serve`` under way, in a process of its own."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading


@contextlib.contextmanager
def program(*arguments, early=lambda process: None, **variables):
    """The program under way: its process, its address, and what it has logged so far.

    What is to be done ``early`` is done before it serves.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pyramid_moa", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
    logged = []
    reader = threading.Thread(target=lambda: logged.extend(process.stderr))
    reader.start()
    try:
        early(process)
        line = process.stdout.readline()
        found = re.fullmatch(r"serving (http://\S+/v1)\n", line)
        assert found, (line, logged)
        yield process, found[1], logged
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


def write_pyramid(folder, addresses):
    """A pyramid of servers, the last of which is the oracle's."""
    specs = [
        {"name": name, "model": "m", "backend": "openai", "base_url": url}
        for name, url in addresses.items()
    ]
    path = folder / "pyramid.yaml"
    path.write_text(json.dumps({"members": specs[:-1], "oracles": specs[-1:]}))
    return path
