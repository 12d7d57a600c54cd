import os, requests

answer = requests.get(os.environ["API"] + "/reports/echo", headers={"Authorization": "Bearer mine"})
sent = answer.json()["you_sent"]["Authorization"][0]
print(sent, "and backwards", sent[::-1])
