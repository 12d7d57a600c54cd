numbers = INPUT_DATA["numbers"]
result = {"sum": sum(numbers), "average": sum(numbers) / len(numbers), "count": len(numbers)}
