"""Sees its own hard limits."""

import os
import shutil

version_2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def limit(controller, old, new):
    path = new if version_2 else os.path.join(controller, old)
    with open(os.path.join("/sys/fs/cgroup", path)) as file:
        return file.read().strip()


print("memory MiB", int(limit("memory", "memory.limit_in_bytes", "memory.max")) >> 20)
print("cpu quota", limit("cpu", "cpu.cfs_quota_us", "cpu.max").split()[0])
print("/tmp MiB", shutil.disk_usage("/tmp").total >> 20)
