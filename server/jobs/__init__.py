"""Jobs: their states, their queue, and the worker process that runs them."""
