"""The image tasks: what an image starts from, what its steps obey, and how it is finished."""
