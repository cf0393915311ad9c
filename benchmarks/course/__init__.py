"""The runnable half of the course in docs/course: `python -m benchmarks.course CHAPTER`, a module a chapter."""
