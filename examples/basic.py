print("Hello from sandbox!")
print(2 + 2)
