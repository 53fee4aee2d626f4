"""The Model Context Protocol: programs with a language model make images by calling tools."""

#: The path of all its requests.
PATH = "/mcp"
