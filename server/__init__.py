"""The HTTP server: dialects over one job queue, with the models in a worker process of their own."""
