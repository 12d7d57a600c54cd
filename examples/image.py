"""What the sandbox image holds, and what it does not."""

import importlib.util
import os
import pwd
import shutil

import matplotlib
import numpy
import pandas
import requests

result = {
    "user": pwd.getpwuid(os.getuid()).pw_name,
    "root": os.getuid() == 0,
    "packages": [m.__name__ for m in (numpy, pandas, matplotlib, requests)],
    "missing": [m for m in ("pip", "setuptools", "wheel") if importlib.util.find_spec(m) is None],
    "commands": [c for c in ("python", "python3", "pip", "gcc", "apt") if shutil.which(c)],
}
