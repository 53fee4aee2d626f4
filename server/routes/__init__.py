"""The dialects of HTTP that we speak; each turns its wire format into one GenerationRequest."""
