import os, requests

requests.get(os.environ["API"] + "/reports/8").raise_for_status()  # the key was in use
for name, value in sorted(os.environ.items()):
    print(f"{name}={value}")
print("of all processes:", [open(f"/proc/{p}/cmdline").read().replace("\0", " ") for p in os.listdir("/proc") if p.isdigit()])
print("files:", [name for folder in ("/workspace", "/tmp") for name in os.listdir(folder)])
