import os, requests

answer = requests.get(os.environ["API"] + "/reports/7")
print(answer.status_code, answer.text.strip())
