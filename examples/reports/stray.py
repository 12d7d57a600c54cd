import os, requests

api = os.environ["API"]
for method, url in (("GET", api + "/admin/keys"), ("DELETE", api + "/reports/7"), ("GET", api.replace("api.", "elsewhere."))):
    answer = requests.request(method, url)
    problem = answer.json()
    print(answer.status_code, method, url)
    print("   ", problem["code"] + ":", problem["detail"])
