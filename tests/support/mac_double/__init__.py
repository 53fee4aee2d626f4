"""A Mac as far as this project sees one: coremltools, Core ML behind it, sysctl. Predictions come from the MIL runtime.

In a test `Mac.install` puts it in place; in a process that a test starts, `environment` does, through the
``sitecustomize`` beside this, and so in all of that process's children.
"""
