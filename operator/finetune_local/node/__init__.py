"""The node of local mode: a kubelet and a scheduler in small. A pod's containers run as processes of this machine.

What stands in for what:

- There are no images: a container's command is run as it is, ``python`` is the interpreter that runs this.
- There is no mount namespace: every pod has a directory, and paths of its mounts are rewritten to lie in it, in
  command, args and values of the environment (:mod:`finetune_local.node.mounts`).
- There is one node without taints. Requests and ``nodeSelector`` are honoured; affinity and spreading are not.
- A process runs as the user who started local mode, with their network; ``securityContext`` and CPU limits change
  nothing. A memory limit is watched: a container above it is killed (OOMKilled).
- A process is not PID 1: without a handler of its own, SIGTERM ends it.
- Pod fields that would change what runs are refused where they are not supported
  (:mod:`finetune_local.node.unsupported`), not ignored.
"""
