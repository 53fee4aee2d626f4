"""A double of the parts of a Mac that this project uses: coremltools, Core ML, sysctl. The MIL runtime predicts.

`Mac.install` installs it in a test; `environment` installs it in a process that a test starts and in that process's
children, by the ``sitecustomize`` module here.
"""
