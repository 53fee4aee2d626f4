"""AUTOMATIC1111's API, for the clients that speak it."""

#: Where clients look for it; they replace the path of the address that their user enters, so it is at the root.
PREFIX = "/sdapi/v1"
