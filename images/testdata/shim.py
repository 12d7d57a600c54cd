"""Stands in for the sandbox agent: starts a driver with its job on descriptor 3, and reports.

Standard input holds a list of {"command": [...], "job": str, "stdin": str, "kill_on": str}, of which
one is run after another; standard output gets a list of {"exit", "stdout", "stderr", "result",
"error"}. With kill_on the driver is killed as soon as its output holds that text.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile


def read(path):
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return file.read()


def run(order):
    result = tempfile.mkdtemp() + "/result"
    job = order["job"].replace("RESULT_PATH", result)
    reading, writing = os.pipe()
    if reading != 3:
        os.dup2(reading, 3)
        os.close(reading)
    os.set_inheritable(3, True)
    driver = subprocess.Popen(
        order["command"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[3],
        env={"PATH": os.environ["PATH"], "HOME": "/workspace"},
    )
    os.close(3)
    try:
        with open(writing, "wb") as pipe:
            pipe.write(job.encode("utf-8", "surrogatepass"))
    except BrokenPipeError:
        pass

    seen = b""
    if order.get("kill_on"):
        while order["kill_on"].encode() not in seen:
            part = os.read(driver.stdout.fileno(), 4096)
            if not part:
                break
            seen += part
        driver.send_signal(signal.SIGKILL)
    out, err = driver.communicate(order.get("stdin", "").encode(), timeout=300)
    return {
        "exit": driver.returncode,
        "stdout": (seen + out).decode("utf-8", "replace"),
        "stderr": err.decode("utf-8", "replace"),
        "result": read(result),
        "error": read(result + ".error"),
    }


json.dump([run(order) for order in json.load(sys.stdin)], sys.stdout)
