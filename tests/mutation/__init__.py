"""Would the tests notice a wrong line? `python -m tests.mutation` changes lines one at a time and runs the tests that execute them."""
